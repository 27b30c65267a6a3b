"""What is wrong with the image of a row, and what makes it known again under another name."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.lint_hash import Print, print_of
from m2f_batch.errors import DecodeError, TransientError, UsageError
from m2f_batch.storage.store import NotFound, ObjectError
from m2f_batch.vision.image import decode

# whose height and width are those of their masks
MASK_FORMATS = ("semantic-png", "instance-png")


class Seen(NamedTuple):
    """An image that was read: a digest of its bytes, and its print."""

    digest: bytes
    print: Print


def look_at(row: Mapping[str, Any], form: str) -> tuple[Seen | None, list[Finding]]:
    """Reads and decodes the image of a row. Raises StoreUnavailable where the store is lost."""
    uri, size_hw = row["uri"], (row["height"], row["width"])
    try:
        data = files.fetch(uri)
        image = decode(data)
    except NotFound:
        return None, [Finding("missing-image", uri, "there is no such file")]
    except (DecodeError, ObjectError, TransientError, UsageError) as error:
        return None, [Finding("unreadable-image", uri, str(error))]
    seen = Seen(hashlib.blake2b(data, digest_size=16).digest(), print_of(image))
    if image.shape[:2] == size_hw:
        return seen, []
    sizes = f"has {image.shape[1]} x {image.shape[0]} pixels, its annotations are for {size_hw[1]} x {size_hw[0]}"
    if size_hw == image.shape[1::-1] and _stored_hw(data) == size_hw:
        return seen, [Finding("exif-size", uri, f"{sizes}: those before its EXIF orientation")]
    kind = "mask-size" if form in MASK_FORMATS else "image-size"
    return seen, [Finding(kind, uri, sizes)]


def _stored_hw(data: bytes) -> tuple[int, int]:
    """Height and width as the header has them, before orientation."""
    width, height = Image.open(io.BytesIO(data)).size
    return height, width
