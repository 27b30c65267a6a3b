"""Decodes the bytes of an image to RGB by one written policy.

- The first bytes decide the format, never a name: JPEG (MPO), PNG, GIF, WebP, AVIF, TIFF, JPEG 2000, BMP, PPM/PGM/
  PBM/PFM, ICO, TGA (by its version 2 footer), and HEIC with the extra ``heic``. No other Pillow plugin ever runs, so
  no file can start Ghostscript.
- Of several frames, pages or pictures it is the first (HEIC: the primary one). Later ones are not decoded.
- The pixel cap is held against the header before a pixel is decoded. A truncated or damaged image is an error.
- EXIF orientation is applied once: here, or by the decoders of TIFF and HEIC. Unreadable or outside 1..8: ignored.
- An embedded ICC profile that is readable and fits the samples (gray, RGB, CMYK) takes them to sRGB with perceptual
  intent. One that moves no color by more than 1 level counts as sRGB and is skipped. Other color tags (gAMA, cICP,
  nclx, gain maps) are ignored. Without a profile, CMYK, YCbCr and Lab are converted as Pillow does.
- 16-bit gray: 0..65535 to 0..255, rounded (12-bit TIFF: 0..4095). Of 16-bit color the high byte is kept.
  32-bit and signed integers: as 16-bit if all values lie in 0..65535, else from the image's minimum and maximum.
  Float: 0..1 to 0..255 if all finite values lie there, else from the finite minimum and maximum; NaN and infinities
  become 0. A TIFF where zero is white is inverted. Layouts of TIFF that Pillow misreads are in ``tiff``.
- Metadata never costs an image its pixels: texts, profiles and color tags that cannot be read count as not there.
- Transparency (alpha, palette, color key) goes over white, after the color conversion.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode import png, tiff
from m2f_batch.vision.decode.color import DEEP, MODES, color_key, to_rgb

# What was read against the policy, or not at all, is no other policy: runs go on. DECODER, in run.json, counts mends.
DECODE_POLICY_VERSION, DECODER = "1", 2

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"MM\x00[*+]|II[*+]\x00|MM\*\x00|II\x00\*",
    "JPEG2000": rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "PPM": rb"P[1-6fF][\s#]",
    "ICO": rb"\x00\x00\x01\x00",
}
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs".split())
_TGA_FOOTER = b"TRUEVISION-XFILE.\x00"
_FORMATS = "JPEG, PNG, GIF, WebP, AVIF, TIFF, JPEG 2000, BMP, PPM, ICO, TGA or HEIC"

# What Pillow and its plugins raise for bad data. Anything else is a bug and goes through.
_BAD_DATA = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_CUT_SHORT = re.compile(
    r"(?i)truncat|unexpected(ly)? end|end of (file|data)|not enough|insufficient|unpack(_from)? requires|out of range"
)
_NOT_READ = re.compile(r"(?i)^unsupported|not (yet )?supported|unknown (pixel|raw|image) mode")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_PIXELS = 4_000_000

_guard_lock = threading.Lock()
_guard_caps: list[int] = []  # of the decodes under way
_guard_saved: list[int | None] = []  # Pillow's own limit, while there are any
_QUIET: Any = ("ignore", None, Warning, re.compile(r"(PIL|pillow_heif)\b"), 0)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Encoded image as RGB: uint8 [H, W, 3], C-contiguous and writable, H and W in pixels after EXIF orientation.

    ``max_pixels`` caps H times W. Raises ``DecodeError`` with the reason Empty, NotAnImage, HeicUnsupported, Truncated,
    Corrupt, TooManyPixels, ZeroSize or UnsupportedMode. Same bytes, same pixels or same message. Safe in threads.
    """
    if not data:
        raise DecodeError("Empty", "the file has 0 bytes")
    with pixel_guard(max_pixels), _open(data, max_pixels) as image:
        return from_pil(image, max_pixels=max_pixels)


def read_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """H, W in pixels that ``decode`` would give, from the header alone. Raises ``DecodeError`` as ``decode`` does."""
    if not data:
        raise DecodeError("Empty", "the file has 0 bytes")
    with pixel_guard(max_pixels), _open(data, max_pixels) as image:
        if image.format == "PNG" and b"eXIf" in data:  # may follow the pixels, and Pillow looks once
            _load(image, max_pixels)
        _check_size(image, max_pixels)
        return _header_size(image)


def from_pil(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The same policy for an opened PIL image, at the frame where it stands: RGB uint8 [H, W, 3], as ``decode``.

    Raises ``DecodeError`` as ``decode`` does. An image that fails to load is closed: at a second attempt Pillow would
    hand out half-decoded pixels.
    """
    with pixel_guard(max_pixels):
        _check_size(image, max_pixels)
        tags = tiff.tags_of_samples(image)  # they are gone after a transpose
        white = 4095 if tags.get(258) == (12,) else 65535
        inverted = image.mode in DEEP and tags.get(262) == 0  # Pillow itself inverts only the other modes
        key = color_key(image)
        _load(image, max_pixels)
        turn = _TURNS.get(_orientation(image))
        rgb = to_rgb(tiff.true_samples(image, tags) if tags else image, white, inverted, key)
        return _pixels(rgb if turn is None else rgb.transpose(turn))


@contextmanager
def pixel_guard(max_pixels: int) -> Iterator[None]:
    """Our cap in place of Pillow's limit, and its warnings off: process-wide, so counted, and put back by the last.

    Plugins hold sizes that only they know (GIF frames, pictures in an ICO) against Pillow's limit; it raises above
    twice the limit.
    """
    with _guard_lock:
        if not _guard_caps:
            _guard_saved.append(Image.MAX_IMAGE_PIXELS)
            # not filterwarnings(), which makes every warning already shown in the process due again
            cast("list[Any]", warnings.filters).insert(0, _QUIET)
        _guard_caps.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = (max(_guard_caps) + 1) // 2
    try:
        yield
    finally:
        with _guard_lock:
            _guard_caps.remove(max_pixels)
            if not _guard_caps:
                Image.MAX_IMAGE_PIXELS = _guard_saved.pop()
                if _QUIET in warnings.filters:
                    cast("list[Any]", warnings.filters).remove(_QUIET)


def _format_of(data: bytes) -> str:
    for name, signature in _SIGNATURES.items():
        if re.match(signature, data, re.DOTALL):
            return name
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4]), 512), 4))]
        if brands[0] not in _HEIC_BRANDS and {b"avif", b"avis"}.intersection(brands):
            return "AVIF"
        if not _HEIC_BRANDS.union({b"mif1", b"msf1"}).isdisjoint(brands):
            return "HEIF"
    if data.endswith(_TGA_FOOTER):
        return "TGA"
    raise DecodeError("NotAnImage", f"not a format that is read ({_FORMATS})")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The header read, no pixel decoded. Not by ``Image.open``, which hides why a plugin refuses a file."""
    name = _format_of(data)
    factory = _heif_factory() if name == "HEIF" else _pillow_factory(name)
    data, more = readable(data, name)
    try:
        image = factory(io.BytesIO(data), "")
    except _BAD_DATA as error:
        width, height = _declared_size(data) if name == "AVIF" else (0, 0)
        if width * height > max_pixels:  # libavif may refuse it by a limit of its own
            raise _too_many(max_pixels, f"{width} x {height} = {width * height}") from error
        if _ends_early(data, name):
            error = EOFError("the file is shorter than its header says")
        if name == "TIFF" and str(error) == "unknown pixel mode":
            error = SyntaxError(f"unknown pixel mode: {tiff.layout(data)}")
        raise _problem(error, name, max_pixels) from error
    image.info |= more
    return image


def readable(data: bytes, name: str) -> tuple[bytes, dict[Any, bytes]]:
    """Bytes of a format that Pillow reads right, and what it would not read of the image's ``info``."""
    return png.mended(data) if name == "PNG" else (tiff.mended(data) if name == "TIFF" else data, {})


def _pillow_factory(name: str) -> Callable[..., Image.Image]:
    if name not in Image.OPEN:
        Image.init()
    return Image.OPEN[name][0]


def _heif_factory() -> Callable[..., Image.Image]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        message = "HEIC is read with an extra that is not installed: pip install 'm2f-batch[heic]'"
        raise DecodeError("HeicUnsupported", message) from error
    return cast("Callable[..., Image.Image]", HeifImageFile)


def _ends_early(data: bytes, name: str) -> bool:
    """Return whether a WebP or AVIF is cut short by its own lengths, because their decoders do not say."""
    if name == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    at = 0
    while name == "AVIF" and at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size < 8:  # to the end of the file, or of 64 bits
            return False
        at += size
    return at > len(data)


def _declared_size(data: bytes) -> tuple[int, int]:
    """Width and height of the largest ``ispe`` box of an AVIF header, or 0, 0 without one."""
    boxes = re.findall(rb"ispe\0{4}(.{4})(.{4})", data[:65536], re.DOTALL)
    sizes = [(int.from_bytes(width), int.from_bytes(height)) for width, height in boxes]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise DecodeError("ZeroSize", f"the size is {width} x {height}")
    if width * height > max_pixels:
        raise _too_many(max_pixels, f"{width} x {height} = {width * height}", _header_size(image))


def _too_many(max_pixels: int, size: str, size_hw: tuple[int, int] | None = None) -> DecodeError:
    problem = f"{size} pixels are more than the cap of {max_pixels}"
    return DecodeError("TooManyPixels", problem, size_hw=size_hw, field="input.max_pixels")


def _header_size(image: Image.Image) -> tuple[int, int]:
    """H, W after orientation of an image that is not loaded. The size of a TIFF Pillow has turned already."""
    width, height = image.size
    return (width, height) if image.format != "TIFF" and _orientation(image) >= 5 else (height, width)


def _load(image: Image.Image, max_pixels: int) -> None:
    name = image.format or "image"
    try:
        _check_strips(image)
        tiff.correct_tiles(image)
        image.load()
    except _BAD_DATA as error:
        size_hw = _header_size(image)  # not sooner: EXIF may follow the pixels of a PNG, and Pillow looks once
        image.close()
        raise _problem(error, name, max_pixels, size_hw) from error
    if image.mode not in MODES:
        raise DecodeError("UnsupportedMode", f"{name}: no rule for the mode {image.mode}")


def _check_strips(image: Image.Image) -> None:
    """JPEG within TIFF that is cut short: libtiff paints the rest gray and says nothing."""
    tags, file = getattr(image, "tag_v2", None), getattr(image, "fp", None)
    if tags and file and tags.get(259) in (6, 7):
        offsets, counts = (tags.get(273) or tags.get(324) or ()), (tags.get(279) or tags.get(325) or ())
        if max(map(sum, zip(offsets, counts, strict=False)), default=0) > file.seek(0, io.SEEK_END):
            raise EOFError("a strip or tile ends after the file does")


def _problem(error: BaseException, name: str, max_pixels: int, size_hw: tuple[int, int] | None = None) -> DecodeError:
    """Turn what Pillow raised into one of our reasons, its message on one line and free of memory addresses."""
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "an object", " ".join(str(error).split())) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return _too_many(max_pixels, "".join(re.findall(r"\((\d+) pixels\)", text)) or "its")
    if text == "not identified by this driver":  # Pillow's words for it
        return DecodeError("ZeroSize", f"{name}: a width or height of 0")
    if not re.search("[A-Za-z]", text):
        text = f"bad header ({text})"
    reason = "Corrupt"
    if _NOT_READ.search(text):
        reason = "UnsupportedMode"
    elif EOFError in (type(error), type(error.__cause__)) or _CUT_SHORT.search(text):
        reason = "Truncated"
    return DecodeError(reason, f"{name}: {text[:200]}", size_hw=size_hw)


def _orientation(image: Image.Image) -> int:
    """1 to 8, 1 where there is none to read. Not a PNG's own ``getexif``, which would load the pixels."""
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except _BAD_DATA:
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)  # by bands, as Pillow packs all that it is asked for into bytes first
    for at in range(0, height, rows):
        box = (0, at, width, min(at + rows, height))
        out[at : at + rows] = np.asarray(image if rows >= height else image.crop(box))
    return out
