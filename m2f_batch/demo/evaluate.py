"""How good the demo model is on drawn scenes it never saw: mask AP, PQ and mIoU.

    python -m m2f_batch.demo.evaluate --scenes 200

AP is pycocotools' (100 detections per image, score threshold 0, things only); PQ and mIoU follow their plain
definitions (Kirillov et al. 2019; intersection over union summed over all images, mean over classes).
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS, VAL_SEED, Scene, draw_scene
from m2f_batch.records import Segment
from m2f_batch.vision.rle import encode_mask
from m2f_batch.vision.segmenter import Segmenter

MODEL = Path(__file__).parent / "model"


def ground_truth(scenes: Sequence[Scene]) -> dict[str, Any]:
    """The things of the scenes as COCO instances; image ids are 1, 2, ..., category ids are label ids + 1."""
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


def mask_ap(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, float]:
    """pycocotools' mask (AP, AP50) of COCO results against a COCO instances tree."""
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def results_of(found: Sequence[Sequence[Segment]]) -> list[dict[str, Any]]:
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


def panoptic_quality(scenes: Sequence[Scene], found: Sequence[Sequence[Segment]]) -> float:
    """Mean over classes of sum of IoU over matches / (TP + FP / 2 + FN / 2); a match has IoU > 0.5."""
    iou_sum: dict[int, float] = defaultdict(float)
    matched: dict[int, int] = defaultdict(int)
    present: dict[int, int] = defaultdict(int)
    for scene, segments in zip(scenes, found, strict=True):
        masks = [segment.mask() for segment in segments]
        for category_id, truth in zip(scene.category_ids, scene.masks(), strict=True):
            present[category_id] += 1
            overlaps = [_iou(truth, m) for s, m in zip(segments, masks, strict=True) if s.category_id == category_id]
            if max(overlaps, default=0.0) > 0.5:
                matched[category_id] += 1
                iou_sum[category_id] += max(overlaps)
        for segment in segments:
            present[segment.category_id] += 1
    # TP + FP / 2 + FN / 2 is half of all predicted and all true segments
    return float(np.mean([iou_sum[c] / (present[c] / 2) if present[c] else 0.0 for c in range(len(CATEGORIES))]))


def mean_iou(scenes: Sequence[Scene], found: Sequence[Sequence[Segment]]) -> float:
    """Mean over classes of intersection over union, each summed over all pixels of all images."""
    intersection, union = np.zeros(len(CATEGORIES)), np.zeros(len(CATEGORIES))
    for scene, segments in zip(scenes, found, strict=True):
        truth = np.asarray(scene.category_ids)[scene.owner]
        guess = np.full(truth.shape, -1)
        for segment in segments:
            guess[segment.mask()] = segment.category_id
        for category_id in range(len(CATEGORIES)):
            intersection[category_id] += ((truth == category_id) & (guess == category_id)).sum()
            union[category_id] += ((truth == category_id) | (guess == category_id)).sum()
    return float(np.mean(intersection / np.maximum(union, 1)))


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def main() -> None:
    """Parse the command line, segment unseen scenes in all three tasks, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    scenes = [draw_scene(VAL_SEED + number) for number in range(options.scenes)]
    images = [scene.image for scene in scenes]
    instance = Segmenter.from_pretrained(options.model, task="instance", score_threshold=0.0)(images)
    ap, ap50 = mask_ap(ground_truth(scenes), results_of(instance))
    panoptic = Segmenter.from_pretrained(options.model, task="panoptic")(images)
    semantic = Segmenter.from_pretrained(options.model, task="semantic")(images)
    print(f"{options.scenes} unseen scenes: mask AP {ap:.3f}, AP50 {ap50:.3f}")
    print(f"PQ {panoptic_quality(scenes, panoptic):.3f}, mIoU {mean_iou(scenes, semantic):.3f}")


if __name__ == "__main__":
    main()
