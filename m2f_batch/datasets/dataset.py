"""Holds annotated images in memory, whatever format they came in. Readers make them, training and metrics take them.

Masks are compressed COCO RLE, never dense. H, W are pixels of the image after EXIF orientation.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

SEGMENT_TYPE = pa.struct(
    [
        ("category", pa.int32()),  # index into Dataset.categories
        ("iscrowd", pa.bool_()),  # COCO: many objects under one mask, neither learned nor counted as one
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
        ("ignored", pa.string()),  # RLE of the pixels that are neither a class nor background, null when there are none
    ]
)
_AT_ONCE = 4096  # rows that are Python objects at a time


@dataclass(frozen=True)
class Category:
    """A class of a dataset.

    ``id`` is the dataset's own, with gaps and from any start. ``isthing`` says whether it has objects.
    """

    id: int
    name: str
    isthing: bool


class Stated(NamedTuple):
    """The box [x, y, w, h] and the area in pixels of one annotation, None where the file has none."""

    where: str
    bbox: Sequence[float] | None
    area: float | None


@dataclass(frozen=True)
class Dataset:
    """``table`` has DATASET_SCHEMA and one row per image, also for images without segments."""

    categories: tuple[Category, ...]
    table: pa.Table

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of ``table`` as dicts, a block of them at a time in memory."""
        for batch in self.table.to_batches(max_chunksize=_AT_ONCE):
            yield from batch.to_pylist()

    def crowds_as_objects(self) -> "Dataset":
        """Returns the same masks, of which none is a crowd."""
        place = self.table.schema.get_field_index("segments")
        chunks = []
        for chunk in self.table["segments"].chunks:
            parts = dict(zip(SEGMENT_TYPE.names, chunk.flatten().flatten(), strict=True))
            parts["iscrowd"] = pa.array(np.zeros(len(parts["iscrowd"]), bool))
            masks = pa.StructArray.from_arrays([*parts.values()], fields=[*SEGMENT_TYPE])
            ends = np.append(0, np.cumsum(chunk.value_lengths().to_numpy(zero_copy_only=False)))
            chunks.append(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), masks))
        segments = pa.chunked_array(chunks, pa.list_(SEGMENT_TYPE))
        return Dataset(self.categories, self.table.set_column(place, DATASET_SCHEMA.field(place), segments))


def dataset_of(categories: Iterable[Category], rows: Iterable[dict[str, Any]]) -> Dataset:
    """Makes a dataset of rows as dicts with the fields of DATASET_SCHEMA. ``ignored`` may be missing.

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
