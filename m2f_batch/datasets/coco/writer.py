"""Writes annotated images as COCO instances JSON and as COCO results, in pieces, so that memory does not grow."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

from m2f_batch.datasets.annotated import AnnotatedImage, AnnotatedImages, AnnotatedSegment
from m2f_batch.datasets.format import Target
from m2f_batch.errors import UsageError


def write_coco(splits: Mapping[str, AnnotatedImages], target: Target) -> Iterator[str]:
    """Writes a COCO JSON for each split, and yields what COCO has no key for.

    Raises UsageError for masks without a pixel, because other programs take them for objects, or fail.
    """
    tally = Counter[str]()
    for split, images in splits.items():
        _write(coco_pieces(images, target.source, tally), split, target)
    if tally["ignored"]:
        kept = "kept under a key 'ignored' that COCO does not know"
        yield f"coco: {tally['ignored']:,} images have ignored pixels, {kept}"


def write_coco_results(splits: Mapping[str, AnnotatedImages], target: Target) -> Iterator[str]:
    """Writes COCO results for each split. Nothing is left out."""
    for split, images in splits.items():
        _write(results_pieces(images), split, target)
    yield from ()


def _write(pieces: Iterable[str], split: str, target: Target) -> None:
    with (target.staging / split).open("w", encoding="utf-8") as file:
        file.writelines(pieces)


def coco_pieces(images: AnnotatedImages, source: str, tally: Counter[str]) -> Iterator[str]:
    """Gives a COCO instances JSON in pieces. ``source`` names the argument for messages.

    ``tally`` counts the images with ``ignored`` pixels.

    Annotation ids count from 1. ``area`` and ``bbox`` are those of the mask, and ``segmentation`` is compressed RLE.
    An image may have ``ignored``, an RLE that is no key of COCO's and that ``read_coco`` reads back.
    """
    head = {"info": dict(images.about), "licenses": [], "categories": [*images.entries]}
    yield json.dumps(head)[:-1] + ', "images": ['
    yield from _joined(_image(image, tally) for image in images.images(with_segments=False))
    yield '], "annotations": ['
    yield from _joined(_annotations(images, source))
    yield "]}\n"


def results_pieces(images: AnnotatedImages) -> Iterator[str]:
    """Gives COCO detection results with masks in pieces: a list of image_id, category_id, segmentation and score.

    There is no ``bbox``, because pycocotools would take the area of the box for that of the mask, and so sort objects
    into small, medium and large by the wrong one. It makes boxes of masks itself.
    """
    entries = images.entries
    yield "["
    yield from _joined(
        {
            "image_id": image.id,
            "category_id": entries[segment.category]["id"],
            "segmentation": _rle(image, segment),
            "score": segment.score,
        }
        for image in images.images()
        for segment in image.segments
    )
    yield "]\n"


def _image(image: AnnotatedImage, tally: Counter[str]) -> dict[str, Any]:
    height, width = image.size_hw
    entry: dict[str, Any] = {"id": image.id, "file_name": image.name, "height": height, "width": width}
    if image.ignored is not None:
        tally["ignored"] += 1
        entry["ignored"] = {"size": [height, width], "counts": image.ignored}
    return entry


def _annotations(images: AnnotatedImages, source: str) -> Iterator[dict[str, Any]]:
    entries, numbers, empty = images.entries, count(1), list[str]()
    for image in images.images():
        for segment in image.segments:
            if not segment.area:
                empty.append(f"{image.uri}: {entries[segment.category]['name']!r}")
            scored = {} if segment.score is None else {"score": segment.score}
            yield {
                "id": next(numbers),
                "image_id": image.id,
                "category_id": entries[segment.category]["id"],
                "segmentation": _rle(image, segment),
                "area": segment.area,
                "bbox": [*segment.bbox],
                "iscrowd": int(segment.iscrowd),
                **scored,
            }
    if empty:
        hint = "m2f-batch lint names them: draw or remove them"
        raise UsageError(f"{len(empty):,} masks have no pixel ({empty[0]})", field=source, hint=hint)


def _rle(image: AnnotatedImage, segment: AnnotatedSegment) -> dict[str, Any]:
    return {"size": [*image.size_hw], "counts": segment.counts}


def _joined(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    comma = ""
    for item in items:
        yield comma + json.dumps(item)
        comma = ",\n"
