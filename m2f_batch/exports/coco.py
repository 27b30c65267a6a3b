"""Rows to COCO JSON and COCO results, a file at a time, so that memory does not grow with the run."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from m2f_batch.exports.ids import CocoId, CocoIds
from m2f_batch.records import Row
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import Run
from m2f_batch.storage import uris

IMAGE_COLUMNS = ["uri", "height", "width", "status"]


def coco_json(run: Run, ids: CocoIds) -> Iterator[str]:
    """A COCO instances JSON in pieces. Images without segments are kept; images that failed have no size, so are not.

    Annotation ids count from 1; ``area`` and ``bbox`` are the mask's; ``segmentation`` is compressed RLE.
    """
    info = run.info
    head = {
        "info": {
            "description": f"m2f_batch {info.task} segmentation",
            "run_id": info.run_id,
            "model": info.model.uri,
            "model_license": info.model.license,
            "date_created": info.started_at,
        },
        "licenses": [],
        "categories": ids.categories,
    }
    yield json.dumps(head)[:-1] + ', "images": ['
    yield from _joined(_image(info, row, image_id) for row, image_id in _labelled(run, ids, IMAGE_COLUMNS))
    yield '], "annotations": ['
    yield from _joined(_annotations(run, ids))
    yield "]}\n"


def coco_results(run: Run, ids: CocoIds) -> Iterator[str]:
    """COCO detection results with masks in pieces: a list of image_id, category_id, segmentation, score.

    No ``bbox``: with one, pycocotools takes the area of the box for that of the mask, and so sorts objects into small,
    medium and large by the wrong one. It makes boxes of masks itself.
    """
    yield "["
    yield from _joined(
        {
            "image_id": image_id,
            "category_id": ids.category_ids[segment["category_id"]],
            "segmentation": _rle(row, segment),
            "score": segment["score"],
        }
        for row, image_id, segment in _segments(run, ids)
    )
    yield "]\n"


def _annotations(run: Run, ids: CocoIds) -> Iterator[dict[str, Any]]:
    for number, (row, image_id, segment) in zip(count(1), _segments(run, ids), strict=False):
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": ids.category_ids[segment["category_id"]],
            "segmentation": _rle(row, segment),
            "area": segment["area"],
            "bbox": segment["bbox"],
            "iscrowd": 0,
            "score": segment["score"],
        }


def _segments(run: Run, ids: CocoIds) -> Iterator[tuple[Row, CocoId, dict[str, Any]]]:
    for row, image_id in _labelled(run, ids, [*IMAGE_COLUMNS, "segments"]):
        for segment in row["segments"]:
            if segment["category_id"] in ids.category_ids:
                ids.written[ids.category_ids[segment["category_id"]]] += 1
                yield row, image_id, segment


def _labelled(run: Run, ids: CocoIds, columns: list[str]) -> Iterator[tuple[Row, CocoId]]:
    """Rows that are ok, by uri, with their COCO image ids."""
    position = 0
    for table in run.rows(columns):
        for row in table.to_pylist():
            if row["status"] == "ok":
                position += 1
                image_id = ids.image_id(row["uri"], position)
                if image_id is not None:
                    yield row, image_id


def _image(info: RunInfo, row: Row, image_id: CocoId) -> dict[str, Any]:
    name = file_name(row["uri"], info.input_uri, info.input_root)
    return {"id": image_id, "file_name": name, "height": row["height"], "width": row["width"]}


def file_name(uri: str, source: str, root: str | None) -> str:
    """A uri relative to the folder that INPUT, the ``source``, names, or whole where it lies elsewhere.

    >>> file_name("/photos/2024/a.jpg", "/photos/*/a*.jpg", None)
    '2024/a.jpg'
    """
    folders = [uris.normalise(root)] if root else []
    if uris.has_glob(source):
        folders.append(uris.split_glob(source)[0])
    folders += [uris.normalise(source), uris.parent(source)]
    return next((uris.below(folder, uri) for folder in folders if uri.startswith(f"{folder.rstrip('/')}/")), uri)


def _rle(row: Row, segment: dict[str, Any]) -> dict[str, Any]:
    return {"size": [row["height"], row["width"]], "counts": segment["counts"]}


def _joined(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    comma = ""
    for item in items:
        yield comma + json.dumps(item)
        comma = ",\n"
