"""Says why each query is in the result or not, by the plain dense definition, one full-size mask after the other.

Slow and simple on purpose, and independent of ``vision/postprocess.py``, whose segments it is held against. Tensors are
float32 on the CPU: ``class_logits`` [Q, C + 1], whose last class is "no object", and ``mask_logits`` [Q, h, w].
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from m2f_batch.config.segment import Task
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.rle import MaskCode, encode_mask


@dataclass
class Judged:
    """The verdict on one candidate: a query with its best class, in instance results also with another class.

    The best class is one of an object, and ``no_object`` is the probability of none. ``canvas_area`` are pixels of the
    content on the canvas above the threshold, ``padding_area`` those beside it. ``reason`` is one of kept, no object,
    score, top_k, stuff, empty, overlap, no pixels. ``detail`` holds its numbers. ``segments`` are the ids of what it is
    part of.
    """

    query: int
    category_id: int
    class_score: float
    no_object: float
    canvas_area: int
    padding_area: int
    reason: str = "kept"
    detail: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    segments: list[int] = field(default_factory=list)


class Defined(NamedTuple):
    """A segment by the definition. ``members`` are indices into ``judged``."""

    category_id: int
    score: float
    code: MaskCode
    members: list[int]


class Definition(NamedTuple):
    """All candidates by query, and the segments, in the order of the result."""

    judged: list[Judged]
    segments: list[Defined]


@torch.inference_mode()
def define(
    class_logits: Tensor, mask_logits: Tensor, task: Task, frame: Frame, settings: Mapping[str, object]
) -> Definition:
    """Apply the contract's definition of a task. ``settings`` are the arguments of its postprocess function."""
    function: Callable[..., Definition] = _sigmoid_instance if "keep_empty" in settings else DEFINITIONS[task]
    return function(class_logits, mask_logits, frame, **settings)


def _instance(
    class_logits: Tensor,
    mask_logits: Tensor,
    frame: Frame,
    score_threshold: float,
    mask_threshold: float,
    top_k: int,
    stuff_ids: frozenset[int],
) -> Definition:
    probabilities = class_logits.softmax(-1)
    level = math.log(mask_threshold / (1 - mask_threshold))
    areas = list(_canvas_areas(mask_logits, frame, level))
    pairs = [(-p, q, c) for q, row in enumerate(probabilities[:, :-1].tolist()) for c, p in enumerate(row)]
    rank = {(q, c): place for place, (_, q, c) in enumerate(sorted(pairs), start=1)}
    best = {(q, int(c)) for q, c in enumerate(probabilities[:, :-1].argmax(-1).tolist())}
    likely = {(q, c) for negative, q, c in pairs if -negative >= score_threshold and rank[q, c] <= top_k}
    judged: list[Judged] = []
    segments: list[Defined] = []
    full = lru_cache(maxsize=1)(lambda query: _full(mask_logits[query], frame))  # classes of one query come in turn
    for q, c in sorted(best | likely):
        score = float(probabilities[q, c])
        item = Judged(q, c, score, float(probabilities[q, -1]), *areas[q], numbers={"rank": rank[q, c]})
        judged.append(item)
        if rank[q, c] > top_k:
            item.reason, item.detail = "top_k", f"pair {rank[q, c]} of the {top_k} taken"
        elif c in stuff_ids:
            item.reason, item.detail = "stuff", "a stuff class is no instance"
        elif score < score_threshold:
            item.reason, item.detail = (
                "score",
                f"class score {score:.4g} < {score_threshold:g}; the mask cannot raise it",
            )
        else:
            values = full(q)
            mask = values > level
            area = int(mask.count_nonzero())
            mean = float(values.sigmoid().masked_fill_(~mask, 0).sum(dtype=torch.float64)) / area if area else 0.0
            item.numbers |= {"area": area, "mean_probability": mean, "score": score * mean}
            if not area:
                item.reason, item.detail = "empty", f"no pixel with probability > {mask_threshold:g}"
            elif score * mean < score_threshold:
                item.reason = "score"
                item.detail = (
                    f"{score:.4g} x mean {mean:.4g} inside the mask = {score * mean:.4g} < {score_threshold:g}"
                )
            else:
                segments.append(Defined(c, score * mean, encode_mask(mask.numpy()), [len(judged) - 1]))
    segments.sort(key=lambda found: (-found.score, judged[found.members[0]].query, found.category_id))
    return _numbered(judged, segments)


def _sigmoid_instance(
    class_logits: Tensor,
    mask_logits: Tensor,
    frame: Frame,
    score_threshold: float,
    mask_threshold: float,
    top_k: int,
    stuff_ids: frozenset[int],
    keep_empty: bool,
) -> Definition:
    """RF-DETR's: no class is "no object", and mask logits [Q, h, w] go to the image at once."""
    probabilities = class_logits.sigmoid()
    level = math.log(mask_threshold / (1 - mask_threshold))
    areas = list(_canvas_areas(mask_logits, frame, level))
    pairs = sorted((-p, q, c) for q, row in enumerate(probabilities.tolist()) for c, p in enumerate(row))
    ranked = {(q, c): (rank, -negative) for rank, (negative, q, c) in enumerate(pairs, start=1)}
    best = {(q, int(c)) for q, c in enumerate(probabilities.argmax(-1).tolist())}
    judged: list[Judged] = []
    segments: list[Defined] = []
    for (q, c), (rank, score) in sorted(ranked.items()):
        is_likely = rank <= top_k and score > score_threshold
        if not is_likely and (q, c) not in best:
            continue
        item = Judged(q, c, score, 0.0, *areas[q], numbers={"rank": rank})
        judged.append(item)
        if rank > top_k:
            item.reason, item.detail = "top_k", f"pair {rank} of the {top_k} taken"
        elif c in stuff_ids:
            item.reason, item.detail = "stuff", "a stuff class is no instance"
        elif not is_likely:
            item.reason, item.detail = "score", f"class score {score:.4g} <= {score_threshold:g}"
        else:
            mask = _up(mask_logits[q], frame.output) > level
            item.numbers["area"] = int(mask.count_nonzero())
            if not item.numbers["area"] and not keep_empty:
                item.reason, item.detail = "empty", f"no pixel with probability > {mask_threshold:g}"
            else:
                segments.append(Defined(c, score, encode_mask(mask.numpy()), [len(judged) - 1]))
    segments.sort(key=lambda found: judged[found.members[0]].numbers["rank"])
    return _numbered(judged, segments)


def _panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    frame: Frame,
    score_threshold: float,
    mask_threshold: float,
    overlap_threshold: float,
    stuff_ids: frozenset[int],
    keep_unsure: bool = False,
) -> Definition:
    level = math.log(mask_threshold / (1 - mask_threshold))
    judged = _by_best_class(class_logits, mask_logits, frame, level)
    objects = [item for item in judged if item.reason != "no object"]
    for item in objects:
        if not item.class_score > score_threshold:
            item.reason, item.detail = "score", f"class score {item.class_score:.4g} <= {score_threshold:g}"
    kept = [item.query for item in objects if item.reason != "score"]
    owner = torch.full(frame.output, -1, dtype=torch.int16)
    inside, highest = torch.zeros(frame.output, dtype=torch.bool), torch.full(frame.output, -1.0)
    scores = class_logits.softmax(-1).amax(-1)
    for q in kept:
        p = _full(mask_logits[q], frame).sigmoid_()
        is_inside = p >= mask_threshold
        judged[q].numbers["area"] = int(is_inside.count_nonzero())
        weighted = p.mul_(scores[q])
        wins = weighted > highest  # a tie stays with the query before
        owner.masked_fill_(wins, q)
        inside = torch.where(wins, is_inside | keep_unsure, inside)
        torch.maximum(highest, weighted, out=highest)
    parts: dict[tuple[int, int], list[int]] = {}
    for q in kept:
        item = judged[q]
        _judge_owner(item, owner == q, inside, mask_threshold, overlap_threshold)
        if item.reason == "kept":
            parts.setdefault((item.category_id, -1 if item.category_id in stuff_ids else q), []).append(q)
    segments = []
    for (label, _), members in parts.items():
        mask = torch.isin(owner, torch.tensor(members, dtype=owner.dtype))
        code = encode_mask(mask.logical_and_(inside).numpy())
        segments.append(Defined(label, max(judged[q].class_score for q in members), code, members))
    return _numbered(judged, sorted(segments, key=lambda found: -found.score))


def _judge_owner(item: Judged, owned: Tensor, inside: Tensor, mask_threshold: float, overlap_threshold: float) -> None:
    """Say whether a query keeps the pixels that it owns, of which those ``inside`` may belong to a segment."""
    numbers = item.numbers
    numbers["owned"] = int(owned.count_nonzero())
    numbers["visible"] = int(owned.logical_and(inside).count_nonzero())
    numbers["owned_over_area"] = numbers["owned"] / numbers["area"] if numbers["area"] else 0.0
    if not numbers["visible"]:
        item.reason = "empty"
        item.detail = f"of its {numbers['area']} pixels with p >= {mask_threshold:g} it owns none"
    elif not numbers["area"]:
        item.reason, item.detail = "empty", f"no pixel with p >= {mask_threshold:g}"
    elif numbers["owned_over_area"] < overlap_threshold:
        ratio = numbers["owned_over_area"]
        item.reason = "overlap"
        item.detail = f"owns {numbers['owned']} / {numbers['area']} = {ratio:.4g} < {overlap_threshold:g}"


def _semantic(class_logits: Tensor, mask_logits: Tensor, frame: Frame, masks_first: bool = False) -> Definition:
    judged = _by_best_class(class_logits, mask_logits, frame, 0.0)
    weights = class_logits.softmax(-1)[:, :-1]
    grown = _full if masks_first else _on_canvas
    votes = torch.stack([grown(logits, frame).sigmoid_() for logits in mask_logits])
    winner = torch.full(frame.output, -1, dtype=torch.int16)
    highest, total = torch.full(frame.output, -1.0), torch.zeros(frame.output)
    peaks = []
    for c in range(weights.shape[1]):
        sums = _up(torch.einsum("q,qhw->hw", weights[:, c], votes), frame.output)
        wins = sums > highest  # a tie stays with the class before
        winner.masked_fill_(wins, c)
        torch.maximum(highest, sums, out=highest)
        total += sums
        peaks.append(float(sums.max()))
    share = torch.where(total > 0, highest / total, torch.zeros_like(total))
    segments = []
    for c in range(weights.shape[1]):
        mask = winner == c
        members = [item.query for item in judged if item.category_id == c and item.reason == "kept"]
        if mask.any():
            segments.append(
                Defined(c, float(share[mask].mean(dtype=torch.float64)), encode_mask(mask.numpy()), members)
            )
            continue
        for q in members:
            judged[q].reason = "no pixels"
            judged[q].detail = f"class {c} wins no pixel; the highest S it reaches is {peaks[c]:.4g}"
    for (
        item
    ) in judged:  # how much it adds to S of its best class, as a mean over the content, where no object has a vote too
        item.numbers["mean_vote"] = float(votes[item.query].mean()) * item.class_score
    return _numbered(judged, sorted(segments, key=lambda found: -found.code.area))


DEFINITIONS: dict[Task, Callable[..., Definition]] = {
    "instance": _instance,
    "panoptic": _panoptic,
    "semantic": _semantic,
}


def _up(plane: Tensor, size: SizeHW) -> Tensor:
    return interpolate(plane[None, None], size=size, mode="bilinear", align_corners=False, antialias=False)[0, 0]


def _on_canvas(logits: Tensor, frame: Frame) -> Tensor:
    """Mask logits [h, w] over the content of the canvas [hc, wc]."""
    return _up(logits, frame.canvas)[: frame.content[0], : frame.content[1]]


def _full(logits: Tensor, frame: Frame) -> Tensor:
    """M of one query, [H, W]."""
    return _up(_on_canvas(logits, frame), frame.output)


def _canvas_areas(mask_logits: Tensor, frame: Frame, level: float) -> Iterator[tuple[int, int]]:
    for logits in mask_logits:
        above = _up(logits, frame.canvas) > level
        content = int(above[: frame.content[0], : frame.content[1]].sum())
        yield content, int(above.sum()) - content


def _by_best_class(class_logits: Tensor, mask_logits: Tensor, frame: Frame, level: float) -> list[Judged]:
    """Return one candidate per query. Those whose best class is no object are judged already."""
    probabilities = class_logits.softmax(-1)
    scores, labels = probabilities[:, :-1].max(-1)
    is_none = (probabilities.argmax(-1) == probabilities.shape[1] - 1).tolist()
    judged = []
    for q, areas in enumerate(_canvas_areas(mask_logits, frame, level)):
        item = Judged(q, int(labels[q]), float(scores[q]), float(probabilities[q, -1]), *areas)
        if is_none[q]:
            item.reason, item.detail = "no object", f"no object {item.no_object:.4g} > {item.class_score:.4g}"
        judged.append(item)
    return judged


def _numbered(judged: list[Judged], segments: list[Defined]) -> Definition:
    for number, segment in enumerate(segments, start=1):
        for member in segment.members:
            judged[member].segments.append(number)
    return Definition(judged, segments)
