"""Measures the demo model on drawn scenes it never saw: mask AP, PQ and mIoU, as ``m2f-batch evaluate`` does.

    python -m m2f_batch.demo.evaluate --scenes 400

AP is of things alone, with 100 detections per image from score 0 on.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.demo.scenes import CATEGORIES, MODEL, STUFF_IDS, TEST_SEED, Scene, draw_scene
from m2f_batch.evaluation.evaluator import Evaluator
from m2f_batch.processes import let_threads_sleep
from m2f_batch.records import Segment
from m2f_batch.vision.masks.rle import encode_mask

CLASSES = tuple(Category(i + 1, name, i not in STUFF_IDS) for i, name in enumerate(CATEGORIES))
Found = Sequence[Sequence[Segment]]  # of each scene


def ground_truth(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return the things of the scenes as COCO instances. Image ids are 1, 2, ..., category ids label ids + 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=1):
        height, width = scene.owner.shape
        images.append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id:06d}.png"})
        for category_id, mask in zip(scene.category_ids, scene.masks(), strict=True):
            if category_id in STUFF_IDS or not mask.any():
                continue
            code = encode_mask(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id + 1,
                    "segmentation": {"size": [height, width], "counts": code.counts},
                    "area": code.area,
                    "bbox": list(code.bbox),
                    "iscrowd": 0,
                }
            )
    names = [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES) if i not in STUFF_IDS]
    return {"images": images, "annotations": annotations, "categories": names}


def results_of(found: Found) -> list[dict[str, Any]]:
    """Segments per image as COCO results, numbered as in ``ground_truth``."""
    return [
        {
            "image_id": image_id,
            "category_id": segment.category_id + 1,
            "segmentation": {"size": list(segment.size), "counts": segment.counts},
            "score": segment.score,
        }
        for image_id, segments in enumerate(found, start=1)
        for segment in segments
    ]


def mask_ap(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, float]:
    """Mask (AP, AP50) of COCO results against a COCO instances tree whose masks are RLE."""
    classes = [Category(category["id"], category["name"], True) for category in truth["categories"]]
    places = {category.id: place for place, category in enumerate(classes)}
    evaluator = Evaluator(classes, "instance", places, frozenset({"ap"}))
    found, true = _by_image(results), _by_image(truth["annotations"])
    for image in truth["images"]:
        segments = [
            {"category": places[entry["category_id"]], "iscrowd": bool(entry["iscrowd"])} | _counts(entry)
            for entry in true[image["id"]]
        ]
        mine = [{**entry, **_counts(entry)} for entry in found[image["id"]]]
        evaluator.add(
            image | {"status": "ok", "segments": mine},
            image | {"image_id": image["id"], "segments": segments, "ignored": None},
        )
    figures = evaluator.summary()["metrics"]
    return figures["AP"], figures["AP50"]


def panoptic_quality(scenes: Sequence[Scene], found: Found) -> float:
    """PQ of panoptic segments."""
    return _measured(scenes, found, "panoptic", "pq")["PQ"]


def mean_iou(scenes: Sequence[Scene], found: Found) -> float:
    """Mean over classes of intersection over union, each summed over all pixels of all images."""
    return _measured(scenes, found, "semantic", "miou")["mIoU"]


def _measured(scenes: Sequence[Scene], found: Found, task: Task, metric: str) -> dict[str, Any]:
    evaluator = Evaluator(CLASSES, task, {i: i for i in range(len(CLASSES))}, frozenset({metric}))
    for image_id, (scene, segments) in enumerate(zip(scenes, found, strict=True), start=1):
        size = dict(zip(("height", "width"), scene.owner.shape, strict=True))
        true = [
            {"category": category, "iscrowd": False, "counts": encode_mask(mask).counts}
            for category, mask in zip(scene.category_ids, scene.masks(), strict=True)
        ]
        row = size | {"status": "ok", "segments": [segment.entry() for segment in segments]}
        evaluator.add(row, size | {"image_id": image_id, "segments": true, "ignored": None})
    return evaluator.summary()["metrics"]


def _by_image(entries: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        found[entry["image_id"]].append(entry)
    return found


def _counts(entry: dict[str, Any]) -> dict[str, str]:
    return {"counts": entry["segmentation"]["counts"]}


def main() -> None:
    """Parse the command line, segment unseen scenes in all three tasks, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--scenes", type=int, default=400)
    options = parser.parse_args()
    let_threads_sleep()
    from m2f_batch.vision.segmenter import Segmenter  # loads torch

    scenes = [draw_scene(TEST_SEED + number) for number in range(options.scenes)]
    images = [scene.image for scene in scenes]
    instance = Segmenter.from_pretrained(options.model, task="instance", score_threshold=0.0)(images)
    ap, ap50 = mask_ap(ground_truth(scenes), results_of(instance))
    panoptic = Segmenter.from_pretrained(options.model, task="panoptic")(images)
    semantic = Segmenter.from_pretrained(options.model, task="semantic")(images)
    print(f"{options.scenes} unseen scenes: mask AP {ap:.3f}, AP50 {ap50:.3f}")
    print(f"PQ {panoptic_quality(scenes, panoptic):.3f}, mIoU {mean_iou(scenes, semantic):.3f}")


if __name__ == "__main__":
    main()
