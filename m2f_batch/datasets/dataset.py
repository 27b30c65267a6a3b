"""Annotated images in memory, whatever format they came in: what readers give and training and metrics take.

Masks are compressed COCO RLE, never dense; H, W are pixels of the image after EXIF orientation.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SEGMENT_TYPE = pa.struct(
    [
        ("category", pa.int32()),  # index into Dataset.categories
        ("iscrowd", pa.bool_()),  # COCO: many objects under one mask, neither learnt nor counted as one
        ("counts", pa.string()),  # compressed COCO RLE of the mask, [height, width]
    ]
)
DATASET_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),  # the dataset's own id, else 1, 2, 3 ... by uri
        ("uri", pa.string()),  # as the rows of a run spell it: an absolute local path, or s3://bucket/key
        ("height", pa.int32()),  # pixels, of the image as annotated: after EXIF orientation
        ("width", pa.int32()),
        ("segments", pa.list_(SEGMENT_TYPE)),  # one per object (instance), per segment (panoptic), per class (semantic)
        ("ignored", pa.string()),  # RLE of the pixels that are neither a class nor background; null when there are none
    ]
)
_AT_ONCE = 4096  # rows that are Python objects at a time


@dataclass(frozen=True)
class Category:
    """A class of a dataset. ``id`` is the dataset's own, with gaps and from any start; ``isthing``: it has objects."""

    id: int
    name: str
    isthing: bool


@dataclass(frozen=True)
class Dataset:
    """``table`` has DATASET_SCHEMA and one row per image, also for images without segments."""

    categories: tuple[Category, ...]
    table: pa.Table

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of ``table`` as dicts, a block of them at a time in memory."""
        for batch in self.table.to_batches(max_chunksize=_AT_ONCE):
            yield from batch.to_pylist()


def dataset_of(categories: Iterable[Category], rows: Iterable[dict[str, Any]]) -> Dataset:
    """A dataset of rows as dicts with the fields of DATASET_SCHEMA; ``ignored`` may be missing.

    >>> row = {"image_id": 1, "uri": "/a.png", "height": 2, "width": 2}
    >>> row["segments"] = [{"category": 0, "iscrowd": False, "counts": "22"}]
    >>> dataset_of([Category(7, "ball", True)], [row]).table.num_rows
    1
    """
    left = iter(rows)
    batches = []
    while some := [*itertools.islice(left, _AT_ONCE)]:
        batches.append(pa.RecordBatch.from_pylist(some, schema=DATASET_SCHEMA))
    return Dataset(tuple(categories), pa.Table.from_batches(batches, schema=DATASET_SCHEMA))
