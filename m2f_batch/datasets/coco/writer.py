"""A dataset as COCO instances JSON, in pieces."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from pycocotools import mask as coco_mask

from m2f_batch.datasets.dataset import Category, Dataset
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.masks import areas, as_rle
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris


def coco_pieces(dataset: Dataset, rows: Iterable[Row], base: str) -> Iterator[str]:
    """The JSON of some ``rows`` of a dataset, whose file names are relative to ``base``.

    Categories and images keep the dataset's own ids, annotations count from 1; ``area`` and ``bbox`` are the mask's,
    ``segmentation`` is compressed RLE. What COCO has no key for stays readable by ``read_coco``: ``isthing`` of
    categories, ``ignored`` of images, an RLE. Raises UsageError for a mask without a pixel, before the first piece.
    """
    listed = [*rows]
    check_areas(dataset, listed)
    yield '{"info": {"description": "converted by m2f-batch"}, "licenses": [], "categories": '
    yield json.dumps([_category(category) for category in dataset.categories])
    yield ', "images": ['
    yield from _joined(_image(row, base) for row in listed)
    yield '], "annotations": ['
    yield from _joined(_annotations(dataset, listed))
    yield "]}\n"


def check_areas(dataset: Dataset, rows: Iterable[Row]) -> None:
    """Raises UsageError for masks without a pixel: other programs take them for objects, or fail."""
    empty = [
        f"{row['uri']}: {dataset.categories[segment['category']].name!r}"
        for row in rows
        for segment, area in zip(row["segments"], _areas(row), strict=True)
        if not area
    ]
    if empty:
        raise UsageError(
            f"SRC: {len(empty):,} masks have no pixel ({empty[0]}); m2f-batch lint names them: draw or remove them"
        )


def _areas(row: Row) -> list[int]:
    return areas([segment["counts"] for segment in row["segments"]], (row["height"], row["width"]))


def file_name(uri: str, base: str) -> str:
    """A uri below ``base`` as the JSON has it, or whole where it lies elsewhere."""
    return uris.below(base, uri) if base else uri


def _category(category: Category) -> dict[str, Any]:
    return {
        "id": category.id,
        "name": category.name,
        "supercategory": category.name,
        "isthing": int(category.isthing),
    }


def _image(row: Row, base: str) -> dict[str, Any]:
    image = {"id": row["image_id"], "file_name": file_name(row["uri"], base)}
    image |= {"height": row["height"], "width": row["width"]}
    if row["ignored"] is not None:
        image["ignored"] = {"size": [row["height"], row["width"]], "counts": row["ignored"]}
    return image


def _annotations(dataset: Dataset, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    numbers = count(1)
    for row in rows:
        rles = [as_rle(segment["counts"], (row["height"], row["width"])) for segment in row["segments"]]
        areas, boxes = coco_mask.area(rles), coco_mask.toBbox(rles)
        for segment, rle, area, box in zip(row["segments"], rles, areas, boxes, strict=True):
            yield {
                "id": next(numbers),
                "image_id": row["image_id"],
                "category_id": dataset.categories[segment["category"]].id,
                "segmentation": {"size": rle["size"], "counts": segment["counts"]},
                "area": int(area),
                "bbox": box.tolist(),
                "iscrowd": int(segment["iscrowd"]),
            }


def _joined(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    comma = ""
    for item in items:
        yield comma + json.dumps(item)
        comma = ",\n"
