"""From logits to COCO RLE as others do it, for the parts that time post-processing.

``dense_*``     the contract's definition at full size with torch and pycocotools, as one would write it down
``shipped_*``   the image processor's own ``post_process_*`` at the image's size, and pycocotools for its masks
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import Mask2FormerImageProcessor

from benchmarks.lib.work import Work
from m2f_batch.records import Segment

Way = Callable[[Work], list[Segment]]


def encode(mask: Tensor) -> dict[str, Any]:
    """Compressed COCO RLE of a mask [H, W] of 0 and 1."""
    return coco_mask.encode(np.asfortranarray(mask.to(torch.uint8).cpu().numpy()))


def up(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, [N, h, w] to [N, H, W]."""
    return interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


def full_size(mask_logits: Tensor, work: Work) -> Tensor:
    """To the canvas, without its padding, to the output."""
    height, width = work.content
    return up(up(mask_logits, work.canvas)[:, :height, :width], work.output)


@torch.inference_mode()
def dense_instance(work: Work) -> list[Segment]:
    """Threshold, score and encode all masks that may be kept, at full size at once."""
    probabilities = work.class_logits.softmax(-1)[:, :-1]
    scores, pairs = probabilities.flatten().topk(min(100, probabilities.numel()))
    pairs, scores = pairs[scores >= 0.5], scores[scores >= 0.5]
    classes = probabilities.shape[1]
    full = full_size(work.mask_logits[pairs // classes], work)
    found = []
    for logits, score, label in zip(full, scores.tolist(), (pairs % classes).tolist(), strict=True):
        mask = logits > 0
        score *= float(logits[mask].sigmoid().mean()) if mask.any() else 0.0
        if score >= 0.5:
            found.append((score, label, encode(mask)))
    return _segments(sorted(found, key=lambda item: -item[0]), work)


@torch.inference_mode()
def dense_panoptic(work: Work) -> list[Segment]:
    """All kept probabilities at full size at once, and the owner of each pixel."""
    scores, labels = work.class_logits.softmax(-1).max(-1)
    kept = (labels != work.class_logits.shape[1] - 1) & (scores > 0.8)
    scores, labels = scores[kept], labels[kept]
    p = full_size(work.mask_logits[kept], work).sigmoid_()
    owner = (scores[:, None, None] * p).argmax(0)
    merged: dict[Any, list[Any]] = {}
    for index, label in enumerate(labels.tolist()):
        owned, inside = owner == index, p[index] >= 0.5
        mask, area = owned & inside, int(inside.sum())
        if not mask.any() or int(owned.sum()) / area < 0.8:
            continue
        key = label if label in work.options.get("stuff_ids", ()) else (label, index)
        score, _, before = merged.get(key, (0.0, label, torch.zeros_like(mask)))
        merged[key] = [max(score, float(scores[index])), label, before | mask]
    best_first = sorted(merged.values(), key=lambda item: -item[0])
    return _segments([(score, label, encode(mask)) for score, label, mask in best_first], work)


@torch.inference_mode()
def dense_semantic(work: Work) -> list[Segment]:
    """Every class at full size at once, and the winner of each pixel."""
    weights = work.class_logits.softmax(-1)[:, :-1]
    planes = torch.einsum("qc,qhw->chw", weights, up(work.mask_logits, work.canvas).sigmoid())
    full = up(planes[:, : work.content[0], : work.content[1]], work.output)
    best, winner = full.max(0)
    share = torch.nan_to_num(best / full.sum(0))
    found = []
    for label in winner.unique().tolist():
        mask = winner == label
        found.append((int(mask.sum()), float(share[mask].mean()), label, encode(mask)))
    return _segments([item[1:] for item in sorted(found, key=lambda item: -item[0])], work)


DENSE: dict[str, Way] = {"instance": dense_instance, "panoptic": dense_panoptic, "semantic": dense_semantic}


@torch.inference_mode()
def shipped(work: Work) -> list[Segment]:
    """Run the task's ``post_process_*``, and encode every mask that it gives, which are those of a 384x384 square."""
    outputs = SimpleNamespace(class_queries_logits=work.class_logits[None], masks_queries_logits=work.mask_logits[None])
    return shipped_segments(Mask2FormerImageProcessor(), outputs, work.task, work.output, work.options)


def shipped_segments(
    processor: Any, outputs: Any, task: str, output: tuple[int, int], options: dict[str, Any], threshold: float = 0.5
) -> list[Segment]:
    """Segments of a batch of one, as ``transformers`` finds them."""
    sizes = {"target_sizes": [output]}
    if task == "semantic":
        winner = processor.post_process_semantic_segmentation(outputs, **sizes)[0]
        found = [(0.0, label, encode(winner == label)) for label in winner.unique().tolist()]
    elif task == "panoptic":
        fused = set(options.get("stuff_ids", ()))
        result = processor.post_process_panoptic_segmentation(
            outputs, **sizes, threshold=max(threshold, 0.8), label_ids_to_fuse=fused
        )[0]
        ids = {info["id"]: info for info in result["segments_info"]}  # a merged segment is listed once a part
        found = [(i["score"], i["label_id"], encode(result["segmentation"] == i["id"])) for i in ids.values()]
    else:
        result = processor.post_process_instance_segmentation(
            outputs, **sizes, threshold=threshold, return_binary_maps=True
        )[0]
        masks = result["segmentation"] if result["segments_info"] else []
        found = [
            (info["score"], info["label_id"], encode(mask))
            for info, mask in zip(result["segments_info"], masks, strict=True)
        ]
    return _segments(found, SimpleNamespace(output=output))


def _segments(found: list[Any], work: Any) -> list[Segment]:
    return [
        Segment(
            number,
            label,
            "",
            score,
            int(coco_mask.area(rle)),
            tuple(coco_mask.toBbox(rle).tolist()),
            rle["counts"].decode(),
            work.output,
        )
        for number, (score, label, rle) in enumerate(found, start=1)
    ]
