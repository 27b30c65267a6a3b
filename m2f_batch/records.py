"""Defines the row, the segment, and the one Arrow schema that every run writes.

Shapes: H, W are the full image's height and width in pixels, after EXIF orientation.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import ArgumentError, ImageError
from m2f_batch.messages.masking import redact

if TYPE_CHECKING:
    from os import PathLike

    from PIL.Image import Image

    # that of vision/decode/given
    ImageLike = str | PathLike[str] | bytes | bytearray | memoryview | Image | NDArray[np.uint8]

SCHEMA_VERSION = "1"

SEGMENT_TYPE = pa.struct(
    [
        pa.field("id", pa.int32()),
        pa.field("category_id", pa.int32()),
        pa.field("category", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("area", pa.int64()),
        pa.field("bbox", pa.list_(pa.field("element", pa.float32()), 4)),
        pa.field("counts", pa.string()),
    ]
)
ERROR_TYPE = pa.struct(
    [pa.field("stage", pa.string()), pa.field("type", pa.string()), pa.field("message", pa.string())]
)
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", ERROR_TYPE),
        pa.field("segments", pa.list_(pa.field("element", SEGMENT_TYPE))),
    ],
    metadata={"m2f_batch.schema_version": SCHEMA_VERSION},
)

# what the columns hold, by their path
COLUMNS: Mapping[str, str] = {
    "image_id": "Number of the image: the first 8 bytes of the SHA-256 of `uri`, NUL, `version`, big-endian, without "
    "the top bit.",
    "uri": "Absolute path of a local file, or URI of an object, which is not percent-encoded.",
    "version": "Version of the bytes that were labeled: an ETag in object stores, size and time of change elsewhere.",
    "height": "Pixels, once the EXIF orientation is applied. Null where it is not known.",
    "width": "As `height`.",
    "status": "`ok`, or `error` where the image has no label.",
    "error": "Null where the status is `ok`.",
    "error.stage": "Stage that failed.",
    "error.type": "Reason, a short word that stays the same from release to release.",
    "error.message": "What happened, for people.",
    "segments": "Empty where nothing was found, and where the status is `error`.",
    "segments.id": "Number of the segment within the image, from 1 on.",
    "segments.category_id": "Label id of the model. `categories` of run.json has them all.",
    "segments.category": "Name of that label.",
    "segments.score": "From 0 to 1.",
    "segments.area": "Pixels of the mask.",
    "segments.bbox": "Smallest box around the mask: x and y of its upper left corner, width, height, in pixels.",
    "segments.counts": "Mask as compressed COCO RLE over the whole image, for pycocotools: "
    '`{"size": [height, width], "counts": counts}`.',
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Segment:
    """One labeled region of one image, with the fields of a ``segments`` entry and the size its mask decodes to.

    Attributes:
        id: counts from 1 within an image.
        category_id: the model's label id.
        category: its name.
        score: from 0 to 1, by the rule of the model's paper.
        area: pixels of the mask.
        bbox: the box of the mask in pixels: x, y, width, height.
        counts: the mask as compressed COCO RLE (column-major), byte for byte that of ``pycocotools.mask.encode``.
        size: height and width of the image in pixels, after EXIF orientation.
    """

    id: int
    category_id: int
    category: str
    score: float
    area: int
    bbox: tuple[float, float, float, float]
    counts: str
    size: tuple[int, int] = field(repr=False)

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask, bool [H, W] at the full size of the image (``pycocotools.mask.decode``)."""
        from pycocotools import mask as coco_mask

        return coco_mask.decode({"size": list(self.size), "counts": self.counts.encode()}).astype(bool)

    def polygon(self) -> list[list[float]]:
        """Return the mask as polygons in the order of COCO: a ring [x0, y0, x1, y1, ...] in pixels for each part.

        Points are corners of pixels, and rings are closed without repeating their first point. Parts that touch at a
        corner are one. A hole hangs on the ring of its part by a seam without area, because COCO has no holes. So the
        rings are a ``segmentation`` of COCO: ``pycocotools`` fills them to the same mask, exactly. A mask without a
        pixel has none.
        """
        from m2f_batch.shapes.contours import rings_of

        return rings_of(self.mask())

    def plot(self, image: "ImageLike") -> "Image":
        """Draw the segment, tinted, outlined and named, over its image, and return the picture at the image's size.

        ``image`` is whatever a ``Segmenter`` takes: a path or URI, encoded bytes, a PIL image, or an array, uint8
        [H, W], [H, W, 3] or [H, W, 4]. ``m2f_batch.plot`` draws many segments. Raises as that.
        """
        from m2f_batch import plot  # by the name that callers use: it lies far above the row

        return plot(image, [self])

    def entry(self) -> dict[str, Any]:
        """Return the segment as an entry of a row's ``segments``: the same fields without ``size``, ``bbox`` a list."""
        return {
            "id": self.id,
            "category_id": self.category_id,
            "category": self.category,
            "score": self.score,
            "area": self.area,
            "bbox": list(self.bbox),
            "counts": self.counts,
        }


@dataclass(frozen=True)
class ImageRef:
    """One listed image. ``image_id`` follows from ``uri`` and ``version``."""

    uri: str
    version: str

    @property
    def image_id(self) -> int:
        """Return the 63-bit id of the contract.

        >>> ImageRef("s3://bucket/a.jpg", "etag").image_id
        676139624461796455
        """
        digest = hashlib.sha256(f"{self.uri}\0{self.version}".encode()).digest()
        return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def image_ids(uris: Iterable[str], versions: Iterable[str]) -> NDArray[np.int64]:
    """Return ``ImageRef.image_id`` of many.

    >>> image_ids(["s3://bucket/a.jpg"], ["etag"]).tolist()
    [676139624461796455]
    """
    named = zip(uris, versions, strict=True)
    starts = [hashlib.sha256(f"{uri}\0{version}".encode()).digest()[:8] for uri, version in named]
    return np.frombuffer(b"".join(starts), ">i8").astype(np.int64) & np.int64(2**63 - 1)


def ok_row(ref: ImageRef, size_hw: tuple[int, int], segments: Iterable[Segment]) -> Row:
    """Return the row of an image that was labeled, also when nothing was found in it."""
    return _row(ref, size_hw, "ok", None, [segment.entry() for segment in segments])


def error_row(ref: ImageRef, error: ImageError) -> Row:
    """Return the row of an image that cannot be labeled, with the reason, without keys and segments."""
    reason = {"stage": error.stage, "type": error.reason, "message": redact(error.message)}
    return _row(ref, error.size_hw, "error", reason, [])


def _row(
    ref: ImageRef,
    size_hw: tuple[int, int] | None,
    status: str,
    error: dict[str, str] | None,
    segments: list[dict[str, Any]],
) -> Row:
    height, width = size_hw or (None, None)
    return {
        "image_id": ref.image_id,
        "uri": ref.uri,
        "version": ref.version,
        "height": height,
        "width": width,
        "status": status,
        "error": error,
        "segments": segments,
    }


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table of exactly the frozen schema."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def segment_of(entry: dict[str, Any], size_hw: tuple[int, int]) -> Segment:
    """Return the segment behind an entry of a row's ``segments``, where ``size_hw`` is the row's height and width."""
    return Segment(**{**entry, "bbox": tuple(entry["bbox"])}, size=size_hw)


def of_one_image(segments: object) -> list[Segment]:
    """Return the segments of one image. Raises ArgumentError for what is another thing, such as those of several."""
    allowed = "the segments of one image, a list of Segment"
    if not isinstance(segments, Sequence):
        raise ArgumentError(f"is of type {type(segments).__name__}", field="segments", allowed=allowed)
    for index, each in enumerate(segments):
        if not isinstance(each, Segment):
            raise ArgumentError(f"is of type {type(each).__name__}", field=f"segments[{index}]", allowed=allowed)
    return [*segments]
