"""The plain definition of the contract, dense and slow: the oracle for masks, scores and order."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Region(NamedTuple):
    """One expected segment; ``doubtful`` are pixels where either answer is right.

    Those within 1e-4 of a threshold, and those whose two best owners differ by no more than rounding.
    """

    score: float
    category_id: int
    mask: np.ndarray
    doubtful: np.ndarray


def up(x: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(x[None], size=size, mode="bilinear", align_corners=False, antialias=False)[0]


def full(mask_logits: Tensor, canvas, content, output) -> Tensor:
    return up(up(mask_logits, canvas)[:, : content[0], : content[1]], output)


def instance(
    class_logits,
    mask_logits,
    *,
    canvas,
    content,
    output,
    score_threshold=0.5,
    mask_threshold=0.5,
    top_k=100,
    stuff_ids=(),
):
    M = full(mask_logits, canvas, content, output)
    probabilities = class_logits.softmax(-1)[:, :-1]
    pairs = [(-float(p), q, c) for q, row in enumerate(probabilities) for c, p in enumerate(row)]
    threshold = float(torch.logit(torch.tensor(mask_threshold, dtype=torch.float64)))
    regions = []
    for negative, q, c in sorted(pairs)[:top_k]:
        mask = M[q] > threshold
        if c in stuff_ids or not mask.any():
            continue
        score = -negative * float(M[q].sigmoid()[mask].mean())
        if score >= score_threshold:
            regions.append((-score, q, c, mask, (M[q] - threshold).abs() < 1e-4))
    regions.sort(key=lambda r: r[:3])
    return [Region(-s, c, mask.numpy(), doubt.numpy()) for s, _, c, mask, doubt in regions]


def sigmoid_instance(
    class_logits, mask_logits, *, output, score_threshold=0.5, mask_threshold=0.5, top_k=300, stuff_ids=(), **_
):
    """RF-DETR's: pairs by their sigmoid alone, one step from the mask logits to the image, empty masks kept."""
    probabilities = class_logits.sigmoid()
    pairs = [(-float(p), q, c) for q, row in enumerate(probabilities) for c, p in enumerate(row)]
    threshold = float(torch.logit(torch.tensor(mask_threshold, dtype=torch.float64)))
    regions = []
    for negative, q, c in sorted(pairs)[:top_k]:
        if -negative > score_threshold and c not in stuff_ids:
            M = up(mask_logits[q][None], output)[0]
            regions.append(Region(-negative, c, (threshold < M).numpy(), ((M - threshold).abs() < 1e-4).numpy()))
    return regions


def panoptic(
    class_logits,
    mask_logits,
    *,
    canvas,
    content,
    output,
    score_threshold=0.8,
    mask_threshold=0.5,
    overlap_threshold=0.8,
    stuff_ids=(),
    keep_unsure=False,
):
    scores, labels = class_logits.softmax(-1).max(-1)
    no_object = class_logits.shape[1] - 1
    kept = [q for q in range(len(scores)) if labels[q] != no_object and scores[q] > score_threshold]
    if not kept:
        return []
    p = full(mask_logits, canvas, content, output).sigmoid()[kept]
    weighted = scores[kept][:, None, None] * p
    owner = weighted.argmax(0)
    top = weighted.topk(min(2, len(kept)), 0).values
    close = (top[0] - top[-1]).abs() < 1e-6 if len(kept) > 1 else torch.zeros_like(owner, dtype=torch.bool)
    regions: list[list] = []
    for i, q in enumerate(kept):
        owned = owner == i
        mask = owned if keep_unsure else owned & (p[i] >= mask_threshold)
        doubt = close if keep_unsure else close | (owned & ((p[i] - mask_threshold).abs() < 1e-4))
        area = int((p[i] >= mask_threshold).sum())
        if not mask.any() or area == 0 or int(owned.sum()) / area < overlap_threshold:
            continue
        label = int(labels[q])
        same = [r for r in regions if r[2] == label and label in stuff_ids]
        if same:
            same[0][0] = min(same[0][0], -float(scores[q]))
            same[0][3] |= mask
            same[0][4] |= doubt
        else:
            regions.append([-float(scores[q]), q, label, mask, doubt])
    regions.sort(key=lambda r: r[:2])
    return [Region(-s, c, mask.numpy(), doubt.numpy()) for s, _, c, mask, doubt in regions]


def semantic(class_logits, mask_logits, *, canvas, content, output, masks_first=False):
    weights = class_logits.softmax(-1)[:, :-1]
    if masks_first:
        S = torch.einsum("qc,qhw->chw", weights, full(mask_logits, canvas, content, output).sigmoid())
    else:
        S = torch.einsum("qc,qhw->chw", weights, up(mask_logits, canvas).sigmoid())
        S = up(S[:, : content[0], : content[1]], output)
    total = S.sum(0)
    winner = S.argmax(0)
    top = S.topk(min(2, len(S)), 0).values
    close = (top[0] - top[-1]).abs() < 1e-6 if len(S) > 1 else torch.zeros_like(winner, dtype=torch.bool)
    regions = []
    for c in range(len(S)):
        mask = winner == c
        if mask.any():
            share = torch.where(total > 0, S[c] / total, torch.zeros_like(total))
            regions.append((-int(mask.sum()), c, float(share[mask].mean()), mask))
    regions.sort(key=lambda r: r[:2])
    return [Region(score, c, mask.numpy(), close.numpy()) for _, c, score, mask in regions]


def pixel_classes(logits, *, canvas, content, output, upsampling="bilinear"):
    if upsampling == "corners":
        values = interpolate(logits[None], size=output, mode="bilinear", align_corners=True)[0]
    elif upsampling == "nearest":
        on_canvas = up(logits, canvas)[:, : content[0], : content[1]]
        values = interpolate(on_canvas[None], size=output, mode="nearest")[0]
    else:
        values = full(logits, canvas, content, output)
    shares, winner = values.softmax(0), values.argmax(0)
    top = values.topk(2, 0).values
    close = (top[0] - top[1]).abs() < 1e-4
    regions = []
    for c in winner.unique().tolist():
        mask = winner == c
        regions.append((-int(mask.sum()), c, float(shares[c][mask].mean()), mask))
    regions.sort(key=lambda r: r[:2])
    return [Region(score, c, mask.numpy(), close.numpy()) for _, c, score, mask in regions]


def assert_same(segments, regions) -> None:
    """Same segments, order of scores within 1e-5, masks equal except in doubtful pixels."""
    assert [s.category_id for s in segments] == [r.category_id for r in regions]
    assert [s.id for s in segments] == list(range(1, len(regions) + 1))
    for segment, region in zip(segments, regions, strict=True):
        assert abs(segment.score - region.score) <= 1e-5
        mask = segment.mask()
        assert mask.shape == region.mask.shape
        wrong = mask != region.mask
        assert not (wrong & ~region.doubtful).any()
        assert wrong.mean() < 1e-3, "doubt is for single pixels"
