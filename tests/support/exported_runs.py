"""Runs of four units to export, and what is in an export of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from support.hand_made import Picture, box_mask

from m2f_batch.errors import ImageError
from m2f_batch.exports.command import export
from m2f_batch.messages.terminal import say
from m2f_batch.runs.directory import RunDirectory

SIZE = (40, 60)


def pictures() -> list[list[Picture]]:
    """Four units by uri; one image without segments, one that failed, names in several scripts."""
    rng = np.random.default_rng(0)
    noise = rng.random(SIZE) < 0.3
    return [
        [
            Picture(
                "/photos/A b.jpg",
                SIZE,
                [(0, 0.9, box_mask(SIZE, 2, 3, 10, 20)), (2, 0.8, box_mask(SIZE, 20, 0, 9, 60))],
            ),
            Picture("/photos/B.jpg", SIZE, []),
        ],
        [Picture("/photos/broken.jpg", error=ImageError("decode", "Truncated", "short"))],
        [
            Picture("/photos/more/c.jpg", (33, 17), [(1, 0.75, box_mask((33, 17), 0, 0, 33, 17))]),
            Picture("/photos/é.jpg", SIZE, [(1, 0.7, noise), (1, 0.6, box_mask(SIZE, 39, 59, 1, 1))]),
        ],
        [Picture("/photos/日本.jpg", SIZE, [(0, 0.95, box_mask(SIZE, 5, 5, 20, 20))])],
    ]


def labelled(units: list[list[Picture]]) -> list[Picture]:
    return [picture for unit in units for picture in unit if picture.error is None]


def exported(run: RunDirectory, dest: Path, form: str = "coco", ground_truth: Path | None = None) -> Any:
    say(*export(run.uri, str(dest), form, str(ground_truth) if ground_truth else None).lines())
    return json.loads(dest.read_text(encoding="utf-8"))


def truth_of(units: list[list[Picture]], category_ids: dict[int, int], image_ids: dict[str, int]) -> dict[str, Any]:
    """A COCO JSON made without our code: masks encoded by pycocotools, names and ids as asked for."""
    images, annotations = [], []
    for picture in labelled(units):
        name = picture.uri.removeprefix("/photos/")
        images.append({"id": image_ids[name], "file_name": name, "height": picture.size[0], "width": picture.size[1]})
        for label, _, mask in picture.segments:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_ids[name],
                    "category_id": category_ids[label],
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    names = ("cat", "dog", "sky")
    categories = [{"id": category_ids[label], "name": f" {names[label]}"} for label in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}
