"""Logits of one image to segments: the paper's own inference (Cheng et al. 2022, section 4.1 and its reference code).

Shapes: Q queries, C classes, (h, w) mask logits, (Hc, Wc) canvas, (hc, wc) content at its top left, (H, W) output.
``class_logits`` are [Q, C + 1], the last class is "no object"; ``mask_logits`` are [Q, h, w]; float32, float16 or
bfloat16 (computed in float32) or float64, on any device. One query at full size at a time bounds the memory.
Ties go to the lowest query, then the lowest class. NaN logits raise ImageError.
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
from m2f_batch.vision.rle import encode_mask

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
    mask: Tensor  # bool [H, W]


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
    shapes = _masks_of({query for _, query, _ in wanted}, mask_logits, frame, mask_threshold)
    found = []
    for class_score, query, category_id in wanted:
        mask, mean = shapes[query]
        score = class_score * mean
        if mask is not None and score >= score_threshold:
            found.append(_Found(score, category_id, mask))
    return _segments(sorted(found, key=lambda item: -item.score), frame)


def _masks_of(
    queries: set[int], mask_logits: Tensor, frame: Frame, mask_threshold: float
) -> dict[int, tuple[Tensor | None, float]]:
    """Each query's mask (None when empty), and the mean probability inside it."""
    shapes: dict[int, tuple[Tensor | None, float]] = {}
    logit = math.log(mask_threshold / (1 - mask_threshold))
    for query in sorted(queries):
        full = full_size(mask_logits[query], frame)
        mask = full > logit
        empty = not bool(mask.any())
        shapes[query] = (None, 0.0) if empty else (mask, float(full[mask].sigmoid().mean()))
    return shapes


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
    owner, probability, areas = _owners(kept, scores, mask_logits, frame, mask_threshold)
    confident = probability >= mask_threshold
    found: list[_Found] = []
    stuff_at: dict[int, int] = {}  # where in `found` the one segment of a stuff class is
    for query, area in zip(kept, areas, strict=True):
        owned = owner == query
        mask = owned & confident
        if area == 0 or not bool(mask.any()) or int(owned.sum()) / area < overlap_threshold:
            continue
        new = _Found(float(scores[query]), int(labels[query]), mask)
        if new.category_id in stuff_at:
            old = found[stuff_at[new.category_id]]
            found[stuff_at[new.category_id]] = _Found(max(old.score, new.score), old.category_id, old.mask | mask)
            continue
        if new.category_id in stuff_ids:
            stuff_at[new.category_id] = len(found)
        found.append(new)
    return _segments(sorted(found, key=lambda item: -item.score), frame)


def _owners(
    kept: list[int], scores: Tensor, mask_logits: Tensor, frame: Frame, mask_threshold: float
) -> tuple[Tensor, Tensor, list[int]]:
    """Per pixel the query with the highest score x p and its p, [H, W]; per query the area with p >= threshold."""
    best = owner = probability = None
    areas = []
    for query in kept:
        p = full_size(mask_logits[query], frame).sigmoid()
        areas.append(int((p >= mask_threshold).sum()))
        weighted = scores[query] * p
        if best is None or owner is None or probability is None:
            best, owner, probability = weighted, torch.full(p.shape, query, device=p.device), p
            continue
        better = weighted > best
        best = torch.where(better, weighted, best)
        owner = torch.where(better, query, owner)
        probability = torch.where(better, p, probability)
    assert owner is not None
    assert probability is not None
    return owner, probability, areas


def semantic_segments(
    class_logits: Tensor, mask_logits: Tensor, *, canvas: SizeHW, content: SizeHW, output: SizeHW
) -> list[Segment]:
    """One segment per class that wins a pixel, largest area first."""
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    best = winner = total = None
    for category_id, plane in _class_planes(class_logits, mask_logits, frame):
        if best is None or winner is None or total is None:
            best, total = plane, plane.clone()
            winner = torch.full(plane.shape, category_id, device=plane.device)
            continue
        total += plane
        better = plane > best
        best, winner = torch.where(better, plane, best), torch.where(better, category_id, winner)
    assert best is not None and winner is not None and total is not None
    share = torch.where(total > 0, best / total, torch.zeros_like(total))
    found = [
        _Found(float(share[mask].mean()), category_id, mask)
        for category_id in torch.unique(winner).tolist()
        for mask in [winner == category_id]
    ]
    return _segments(sorted(found, key=lambda item: -int(item.mask.sum())), frame)


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
    if bool(class_logits.isnan().any()) or bool(mask_logits.isnan().any()):
        raise ImageError("postprocess", "NanLogits", "the model gave NaN logits for this image")
    if class_logits.dtype == torch.float64:
        return class_logits, mask_logits.double()
    return class_logits.float(), mask_logits.float()


def _segments(found: list[_Found], frame: Frame) -> list[Segment]:
    segments = []
    for number, item in enumerate(found, start=1):
        code = encode_mask(item.mask.cpu().numpy())
        segments.append(
            Segment(number, item.category_id, "", item.score, code.area, code.bbox, code.counts, frame.output)
        )
    return segments
