"""Reads what an encoded image says of itself: format, mode, orientation, profile. No pixel is judged."""

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image, ImageCms

from m2f_batch.vision.decode.image import readable

# the plugins of the decode policy (vision/decode/image.py), the one without a signature last
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "PPM", "ICO", "TGA")
BAD_DATA = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError),
    *(struct.error, Image.DecompressionBombError),
)
SAMPLES = {
    "CMYK": "four inks to RGB",
    "P": "palette to RGB",
    "PA": "palette to RGB",
    "1": "black and white to RGB",
    "L": "gray to RGB",
    "LA": "gray to RGB",
    "YCbCr": "YCbCr to RGB",
    "LAB": "Lab to RGB",
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I", "F"), "deep gray scaled to 8 bits, then RGB"),
}


def describe(data: bytes, name: str, *, whole: bool) -> dict[str, Any]:
    """The header's facts, and ``notes`` on what the decode policy does about them.

    ``whole``: the image is known to decode, so that what stands behind its pixels (EXIF of a PNG) may be read too.
    """
    with warnings.catch_warnings():  # Pillow's, about tags that the decode policy ignores as well
        warnings.simplefilter("ignore")
        return _described(data, name, whole)


def _described(data: bytes, name: str, whole: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"bytes": len(data), "first_bytes": data[:16].hex(" ")}
    image = _opened(data)
    if image is None:
        return facts | {"format": None, "notes": ["no reader of the formats that are taken opens it"]}
    with image:
        width, height = image.size
        facts |= {"format": image.format, "mode": image.mode, "stored_hw": [height, width]}
        facts |= {"frames": _frames(image), "transparency": bool(image.has_transparency_data)}
        icc = image.info.get("icc_profile")
        if isinstance(icc, bytes) and icc:
            facts["icc_profile"] = {"bytes": len(icc), "description": _profile_name(icc)}
        if whole and image.format == "PNG":
            image.load()
        facts["exif_orientation"] = _orientation(image)
    return facts | {"notes": list(_notes(facts, name))}


def _opened(data: bytes) -> Image.Image | None:
    """The header as the first plugin reads it that takes it. ``Image.open`` is not used: it has its own pixel cap."""
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is not True:
            continue
        read, more = readable(data, name)
        try:
            image = factory(io.BytesIO(read), "")
        except BAD_DATA:
            continue
        image.info |= more
        return image
    if data[4:8] != b"ftyp" or b"avif" in data[8:32]:  # the HEIC reader would take an AVIF for its own
        return None
    try:
        from pillow_heif import HeifImageFile

        return HeifImageFile(io.BytesIO(data), "")
    except (ImportError, *BAD_DATA):
        return None


def _frames(image: Image.Image) -> int | None:
    try:
        return int(getattr(image, "n_frames", 1))
    except BAD_DATA:
        return None


def _profile_name(icc: bytes) -> str | None:
    try:
        return " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).split())
    except (ImageCms.PyCMSError, *BAD_DATA):
        return None


def _orientation(image: Image.Image) -> int | None:
    """The tag as it stands in the file. None without one."""
    try:
        value = image.info.get("original_orientation")  # of a HEIC, whose decoder turns it
        value = value or Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except BAD_DATA:
        return None
    return value if isinstance(value, int) else None


def _notes(facts: dict[str, Any], name: str) -> Iterator[str]:
    extension = "." + name.rpartition(".")[2].lower()
    named = Image.registered_extensions().get(extension)
    if named and {named, facts["format"]} not in ({named}, {"JPEG", "MPO"}):
        yield f"the name says {named}, the bytes say {facts['format']}: the bytes count"
    orientation = facts["exif_orientation"]
    if orientation in range(2, 9):
        yield f"EXIF orientation {orientation} is applied: the image is turned or mirrored"
    elif orientation not in (None, 1):
        yield f"EXIF orientation {orientation} means nothing and is ignored"
    if facts["mode"] in SAMPLES:
        yield SAMPLES[facts["mode"]]
    if facts["transparency"]:
        yield "transparency goes over white"
    if "icc_profile" in facts:
        name = facts["icc_profile"]["description"]
        yield f"ICC profile {name!r} is applied, unless it does not fit or is sRGB itself"
    if (facts["frames"] or 1) > 1:
        yield f"the first of {facts['frames']} frames, pages or pictures"
