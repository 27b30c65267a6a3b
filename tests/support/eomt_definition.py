"""What EoMT's own evaluation does (``training/lightning_module.py``), written again plainly: its oracle."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from support.reference import Region
from torch import Tensor
from torch.nn.functional import interpolate

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def scaled(image_hw: tuple[int, int], edge: int, *, covers: bool) -> tuple[int, int]:
    """The size on a square, or at least as large as one where it ``covers`` it."""
    factors = [edge / side for side in image_hw]
    factor = max(factors) if covers else min(factors)
    return round(image_hw[0] * factor), round(image_hw[1] * factor)


def pixel_values(image: np.ndarray, edge: int, *, covers: bool) -> np.ndarray:
    """Normalized pixels [3, h, w], on a black square unless they cover one."""
    height, width = scaled(image.shape[:2], edge, covers=covers)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if not covers:
        square = np.zeros((edge, edge, 3), np.uint8)
        square[:height, :width] = resized
        resized = square
    return ((resized / 255.0 - MEAN) / STD).transpose(2, 0, 1)


def full_masks(mask_logits: Tensor, image_hw: tuple[int, int], edge: int) -> Tensor:
    """Mask logits [Q, h, w] of the square at the size of the image."""
    height, width = scaled(image_hw, edge, covers=False)
    on_square = interpolate(mask_logits[None], size=(edge, edge), mode="bilinear")
    return interpolate(on_square[:, :, :height, :width], size=image_hw, mode="bilinear")[0]


def instances(class_logits: Tensor, masks: Tensor, stuff_ids: Any = (), top_k: int = 100) -> list[Region]:
    """The best (query, class) pairs, overlapping, without empty ones and stuff. ``masks`` are of the image's size."""
    scores = class_logits.softmax(-1)[:, :-1]
    classes = scores.shape[1]
    order = sorted(range(scores.numel()), key=lambda pair: (-float(scores.flatten()[pair]), pair))[:top_k]
    found = []
    for pair in order:
        logits = masks[pair // classes]
        mask = logits > 0
        if pair % classes in stuff_ids or not mask.any():
            continue
        share = float((logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6))
        found.append((float(scores.flatten()[pair]) * share, pair, mask, logits.abs() < 1e-4))
    found.sort(key=lambda each: (-each[0], each[1]))
    return [Region(score, pair % classes, mask.numpy(), near.numpy()) for score, pair, mask, near in found]


def panoptic(class_logits: Tensor, masks: Tensor, stuff_ids: Any = ()) -> list[Region]:
    """Segments that do not overlap, with the thresholds .8 and .8."""
    scores, classes = class_logits.softmax(-1).max(-1)
    keep = classes.ne(class_logits.shape[-1] - 1) & (scores > 0.8)
    if not keep.any():
        return []
    p = masks.sigmoid()[keep]
    weighted = scores[keep][:, None, None] * p
    owner = weighted.argmax(0)
    best = weighted.topk(min(2, len(p)), 0).values
    close = (best[0] - best[-1]).abs() < 1e-4 if len(p) > 1 else torch.zeros_like(owner, dtype=torch.bool)
    found: dict[Any, list[Any]] = {}
    for k, (score, label) in enumerate(zip(scores[keep].tolist(), classes[keep].tolist(), strict=True)):
        inside, owned = p[k] >= 0.5, owner == k
        if not inside.any() or not (inside & owned).any() or owned.sum() / inside.sum() < 0.8:
            continue
        near = close | (owned & ((p[k] - 0.5).abs() < 1e-4))
        entry = found.setdefault(
            ("stuff", label) if label in stuff_ids else k, [0.0, label, owned & False, near & False]
        )
        entry[0] = max(entry[0], score)
        entry[2] = entry[2] | (inside & owned)
        entry[3] = entry[3] | near
    ranked = sorted(found.values(), key=lambda each: -each[0])
    return [Region(score, label, mask.numpy(), near.numpy()) for score, label, mask, near in ranked]


def window_starts(length: int, edge: int) -> list[int]:
    """Where the windows of the longer side begin. The last one ends at the border, which rounding can miss."""
    count = math.ceil(length / edge)
    overlap = (count * edge - length) / (count - 1) if count * edge > length else 0
    return [*(int(j * (edge - overlap)) for j in range(count - 1)), length - edge]


def semantic(windows: list[tuple[Tensor, Tensor]], image_hw: tuple[int, int], edge: int) -> list[Region]:
    """Regions of classes, from class and mask logits of each window in their order."""
    height, width = scaled(image_hw, edge, covers=True)
    starts = window_starts(max(height, width), edge)
    classes = windows[0][0].shape[1] - 1
    total, count = torch.zeros((classes, height, width)), torch.zeros((height, width))
    for start, (class_logits, mask_logits) in zip(starts, windows, strict=True):
        masks = interpolate(mask_logits[None], size=(edge, edge), mode="bilinear")[0].sigmoid()
        part = (
            (slice(start, start + edge), slice(None)) if height > width else (slice(None), slice(start, start + edge))
        )
        total[:, *part] += torch.einsum("qhw,qc->chw", masks, class_logits.softmax(-1)[:, :-1])
        count[part] += 1
    values = interpolate((total / count)[None], size=image_hw, mode="bilinear")[0]
    winner, best = values.argmax(0), values.topk(2, 0).values
    shares, close = values / values.sum(0), (best[0] - best[1]) < 1e-4
    found = []
    for label in winner.unique().tolist():
        mask = winner == label
        found.append((-int(mask.sum()), label, float(shares[label][mask].mean()), mask))
    found.sort(key=lambda each: each[:2])
    return [Region(score, label, mask.numpy(), close.numpy()) for _, label, score, mask in found]
