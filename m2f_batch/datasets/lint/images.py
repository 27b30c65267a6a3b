"""Looks at the image of a row: what is wrong with it, and the print that tells it under another name."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.format import Format
from m2f_batch.datasets.lint.near_copies import Print, print_of
from m2f_batch.datasets.pixel_cap import image_of, opening
from m2f_batch.errors import DecodeError, TransientError, UsageError
from m2f_batch.storage.store import NotFound, ObjectError

# how a stored image is turned
_TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "turned upside down as in a mirror",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 90 degrees",
}


class Seen(NamedTuple):
    """An image that was read: a digest of its bytes, and its print."""

    digest: bytes
    print: Print


def look_at(row: Mapping[str, Any], form: Format) -> tuple[Seen | None, list[Finding]]:
    """Reads and decodes the image of a row. Raises StoreUnavailable where the store is lost."""
    uri, size_hw = row["uri"], (row["height"], row["width"])
    try:
        data = files.fetch(uri)
        image = image_of(data)
    except NotFound:
        return None, [Finding("missing-image", uri, "there is no such file")]
    except (DecodeError, ObjectError, TransientError, UsageError) as error:
        return None, [Finding("unreadable-image", uri, str(error))]
    seen = Seen(hashlib.blake2b(data, digest_size=16).digest(), print_of(image))
    if image.shape[:2] == size_hw:
        turn = _orientation(data)
        is_plain = turn > 4 and size_hw[0] != size_hw[1] and form.size_from != "image"
        if turn == 1 or is_plain or not row["segments"]:
            return seen, []
        text = f"has the EXIF orientation {turn}: {_TURNS[turn]} for show, and sizes cannot tell how it was annotated"
        return seen, [Finding("exif-orientation", uri, text)]
    sizes = f"has {image.shape[1]} x {image.shape[0]} pixels, its annotations are for {size_hw[1]} x {size_hw[0]}"
    if size_hw == image.shape[1::-1] and _stored_hw(data) == size_hw:
        return seen, [Finding("exif-size", uri, f"{sizes}: those before its EXIF orientation")]
    kind = "mask-size" if form.size_from == "mask" else "image-size"
    turned = ": height and width are swapped" if size_hw == image.shape[1::-1] else ""
    return seen, [Finding(kind, uri, sizes + turned)]


def _orientation(data: bytes) -> int:
    """The EXIF orientation, 1 where there is none to read."""
    try:
        with opening():
            turn = Image.open(io.BytesIO(data)).getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError):  # of metadata alone: the pixels were read
        return 1
    return turn if turn in _TURNS else 1


def _stored_hw(data: bytes) -> tuple[int, int]:
    """Height and width as the header has them, before orientation."""
    with opening():
        width, height = Image.open(io.BytesIO(data)).size
    return height, width
