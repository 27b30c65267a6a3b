"""Logits of one image to segments: the paper's own inference (Cheng et al. 2022, section 4.1 and its reference code).

Shapes: Q queries, C classes, (h, w) mask logits, (Hc, Wc) canvas, (hc, wc) content at its top left, (H, W) output.
``class_logits`` are [Q, C + 1], the last class is "no object"; ``mask_logits`` are [Q, h, w]; float32, float16 or
bfloat16 (computed in float32) or float64, on any device. One query at full size at a time bounds the memory.
Ties go to the lowest query, then the lowest class. NaN and infinite logits raise ImageError.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from m2f_batch.errors import ImageError
from m2f_batch.records import Segment
from m2f_batch.vision.geometry import SizeHW
from m2f_batch.vision.rle import MaskCode, encode_mask

NO_STUFF: frozenset[int] = frozenset()
CLASSES_AT_ONCE = 16  # semantic: bounds the canvas-sized products


class Frame(NamedTuple):
    """Where mask logits lie: canvas, the content at its top left, and the output, each (height, width) in pixels."""

    canvas: SizeHW
    content: SizeHW
    output: SizeHW


class _Found(NamedTuple):
    score: float
    category_id: int
    code: MaskCode  # not the mask: a hundred of them at full size would not fit


def instance_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    score_threshold: float = 0.5,
    mask_threshold: float = 0.5,
    top_k: int = 100,
    stuff_ids: frozenset[int] = NO_STUFF,
) -> list[Segment]:
    """The ``top_k`` best (query, class) pairs as possibly overlapping masks, best score first."""
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    scores, pairs = _ranked(class_logits.softmax(-1)[:, :-1].flatten())
    classes = class_logits.shape[1] - 1
    wanted = [
        (score, pair // classes, pair % classes)
        for score, pair in zip(scores[:top_k].tolist(), pairs[:top_k].tolist(), strict=True)
        # mean sigmoid <= 1, so a class score under the threshold cannot end above it
        if score >= score_threshold and pair % classes not in stuff_ids
    ]
    shapes = {query: _shape_of(mask_logits[query], frame, mask_threshold) for query in {q for _, q, _ in wanted}}
    found = []
    for class_score, query, category_id in wanted:
        code, mean = shapes[query]
        if code.area > 0 and class_score * mean >= score_threshold:
            found.append((query, _Found(class_score * mean, category_id, code)))
    found.sort(key=lambda item: (-item[1].score, item[0], item[1].category_id))
    return _segments([item for _, item in found], frame)


def _shape_of(mask_logits: Tensor, frame: Frame, mask_threshold: float) -> tuple[MaskCode, float]:
    """A query's mask, and the mean probability inside it (0 when it is empty)."""
    full = full_size(mask_logits, frame)
    mask = full > math.log(mask_threshold / (1 - mask_threshold))
    mean = float(full[mask].sigmoid().mean()) if bool(mask.any()) else 0.0
    return _encode(mask), mean


def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    score_threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_threshold: float = 0.8,
    stuff_ids: frozenset[int] = NO_STUFF,
) -> list[Segment]:
    """Segments that do not overlap, segments of one stuff class merged, best score first."""
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != class_logits.shape[1] - 1) & (scores > score_threshold)
    kept = keep.nonzero().flatten().tolist()
    if not kept:
        return []
    owner, confident, areas = _owners(kept, scores, mask_logits, frame, mask_threshold)
    parts: dict[tuple[int, int], list[int]] = {}  # the queries of each segment, by class and, for things, query
    for query, area in zip(kept, areas, strict=True):
        owned = owner == query
        if area == 0 or not bool((owned & confident).any()) or _area(owned) / area < overlap_threshold:
            continue
        label = int(labels[query])
        parts.setdefault((label, -1 if label in stuff_ids else query), []).append(query)
    found = []
    for (label, _), queries in parts.items():
        mask = torch.isin(owner, torch.tensor(queries, dtype=owner.dtype, device=owner.device)) & confident
        found.append(_Found(max(float(scores[query]) for query in queries), label, _encode(mask)))
    # a stable sort: equal scores stay in the order of their first queries
    return _segments(sorted(found, key=lambda item: -item.score), frame)


def _owners(
    kept: list[int], scores: Tensor, mask_logits: Tensor, frame: Frame, mask_threshold: float
) -> tuple[Tensor, Tensor, list[int]]:
    """Per pixel, [H, W]: the query with the highest score x p, and whether its p >= threshold.

    And per query the area where its own p >= threshold.
    """
    best = torch.full(frame.output, -1.0, dtype=mask_logits.dtype, device=mask_logits.device)
    owner = torch.full(frame.output, -1, dtype=torch.int16, device=mask_logits.device)
    confident = torch.zeros(frame.output, dtype=torch.bool, device=mask_logits.device)
    areas = [
        _claim(query, full_size(mask_logits[query], frame), scores[query], mask_threshold, best, owner, confident)
        for query in kept
    ]
    return owner, confident, areas


def _claim(
    query: int, full: Tensor, score: Tensor, mask_threshold: float, best: Tensor, owner: Tensor, confident: Tensor
) -> int:
    """Give a query the pixels where it beats ``best``, in place; returns the area where its own p >= threshold.

    In place and with nothing kept: at 200 million pixels every plane of float32 is 0.8 GB.
    """
    p = full.sigmoid_()
    inside = p >= mask_threshold
    weighted = p.mul_(score)
    better = weighted > best
    torch.maximum(best, weighted, out=best)
    owner.masked_fill_(better, query)
    confident.logical_and_(~better).logical_or_(inside & better)
    return _area(inside)


def semantic_segments(
    class_logits: Tensor, mask_logits: Tensor, *, canvas: SizeHW, content: SizeHW, output: SizeHW
) -> list[Segment]:
    """One segment per class that wins a pixel, largest area first."""
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    best = torch.full(output, -1.0, dtype=mask_logits.dtype, device=mask_logits.device)
    winner = torch.full(output, -1, dtype=torch.int16, device=mask_logits.device)
    total = torch.zeros_like(best)
    for category_id, plane in _class_planes(class_logits, mask_logits, frame):
        total += plane
        better = plane > best
        torch.maximum(best, plane, out=best)
        winner.masked_fill_(better, category_id)
    share = torch.where(total > 0, best / total, torch.zeros_like(total))
    found = []
    for category_id in torch.unique(winner).tolist():
        mask = winner == category_id
        found.append(_Found(float(share[mask].mean()), category_id, _encode(mask)))
    return _segments(sorted(found, key=lambda item: -item.code.area), frame)


def _class_planes(class_logits: Tensor, mask_logits: Tensor, frame: Frame) -> Iterator[tuple[int, Tensor]]:
    """Each class' share of every output pixel, [H, W]: ``S`` of the contract."""
    height, width = frame.content
    weights = class_logits.softmax(-1)[:, :-1]
    shapes = _up(mask_logits, frame.canvas).sigmoid()
    for first in range(0, weights.shape[1], CLASSES_AT_ONCE):
        planes = torch.einsum("qc,qhw->chw", weights[:, first : first + CLASSES_AT_ONCE], shapes)
        for offset, plane in enumerate(planes[:, :height, :width]):
            yield first + offset, _up(plane[None], frame.output)[0]


def full_size(mask_logits: Tensor, frame: Frame) -> Tensor:
    """``M`` of the contract for one query: [h, w] to the canvas, cropped to the content, to the output [H, W]."""
    height, width = frame.content
    return _up(_up(mask_logits[None], frame.canvas)[:, :height, :width], frame.output)[0]


def _up(planes: Tensor, size_hw: SizeHW) -> Tensor:
    """Bilinear, ``align_corners=False``, no antialias: [N, h, w] to [N, *size_hw]."""
    return interpolate(planes[:, None], size=size_hw, mode="bilinear", align_corners=False)[:, 0]


def _ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """All scores, highest first; equal ones in the order of their index (``topk`` leaves that open)."""
    return torch.sort(scores, descending=True, stable=True)


def _checked(class_logits: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    # an infinity becomes NaN in the very next step: softmax, or bilinear weights of 0
    if not bool(class_logits.isfinite().all()) or not bool(mask_logits.isfinite().all()):
        raise ImageError("postprocess", "NanLogits", "the model gave NaN or infinite logits for this image")
    if class_logits.dtype == torch.float64:
        return class_logits, mask_logits.double()
    return class_logits.float(), mask_logits.float()


def _area(mask: Tensor) -> int:
    """Pixels of a mask; ``sum`` would first make it int64."""
    return int(torch.count_nonzero(mask))


def _encode(mask: Tensor) -> MaskCode:
    return encode_mask(mask.cpu().numpy())


def _segments(found: list[_Found], frame: Frame) -> list[Segment]:
    return [
        Segment(
            number, item.category_id, "", item.score, item.code.area, item.code.bbox, item.code.counts, frame.output
        )
        for number, item in enumerate(found, start=1)
    ]
