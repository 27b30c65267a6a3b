"""Compares answers: with the plain definition pixel by pixel, and two runs by their overlap.

The rule of what is the same (scores, order, doubtful pixels) is that of the tests' oracle,
``tests/support/reference.py``; the
dense oracle would need 20 GB at 4K, so the regions are made here one plane at a time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmarks.lib.work import Work
from m2f_batch.records import Segment
from tests.support.reference import Region, assert_same, full, instance, up

QUERIES_AT_ONCE = 8


def check_same(segments: Sequence[Segment], regions: Sequence[Region]) -> None:
    """Raise AssertionError unless the segments are the definition's."""
    assert_same(segments, regions)
    for segment in segments:
        mask = segment.mask()
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert segment.counts == rle["counts"].decode(), "the RLE is not pycocotools' own"
        assert segment.area == int(mask.sum())


def overlaps(found: Sequence[Segment], wanted: Sequence[Segment]) -> list[float]:
    """Return for each wanted segment the best IoU with a found one of its class, 0 where there is none."""
    best = []
    for segment in wanted:
        same = [_rle(other) for other in found if other.category_id == segment.category_id]
        best.append(float(coco_mask.iou(same, [_rle(segment)], [0]).max()) if same else 0.0)
    return best


def expected(work: Work) -> list[Region]:
    """The plain definition's regions, dense, a few planes at a time."""
    return {"instance": _instance, "panoptic": _panoptic, "semantic": _semantic}[work.task](work)


def _instance(work: Work) -> list[Region]:
    """Go query by query. Above a score of one half a query has at most one class, so ``top_k`` cuts nothing."""
    kept = (work.class_logits.softmax(-1)[:, :-1].max(-1).values >= 0.5).nonzero().flatten()
    assert len(kept) <= 100
    regions = [
        region
        for some in kept.split(QUERIES_AT_ONCE)
        for region in instance(work.class_logits[some], work.mask_logits[some], **work.sizes)
    ]
    return sorted(regions, key=lambda region: -region.score)


def _panoptic(work: Work) -> list[Region]:
    scores, labels = work.class_logits.softmax(-1).max(-1)
    none = work.class_logits.shape[1] - 1
    kept = [q for q in range(len(scores)) if labels[q] != none and scores[q] > 0.8]
    contest = _Contest(work.output)
    for index, query in enumerate(kept):
        contest.enter(index, scores[query] * _probability(work, query))
    merged: dict[object, Region] = {}
    for index, query in enumerate(kept):
        p, owned = _probability(work, query), contest.owner == index
        mask, area = owned & (p >= 0.5), int((p >= 0.5).sum())
        if not mask.any() or int(owned.sum()) / area < 0.8:
            continue
        label, doubt = int(labels[query]), contest.close() | (owned & ((p - 0.5).abs() < 1e-4))
        region = Region(float(scores[query]), label, mask.numpy(), doubt.numpy())
        key = label if label in work.options.get("stuff_ids", ()) else (label, query)
        if key in merged:
            other = merged[key]
            best = max(region.score, other.score)
            region = Region(best, label, region.mask | other.mask, region.doubtful | other.doubtful)
        merged[key] = region
    return sorted(merged.values(), key=lambda region: -region.score)


def _semantic(work: Work) -> list[Region]:
    weights = work.class_logits.softmax(-1)[:, :-1]
    planes = torch.einsum("qc,qhw->chw", weights, up(work.mask_logits, work.canvas).sigmoid())
    planes = planes[:, : work.content[0], : work.content[1]]
    contest, total = _Contest(work.output), torch.zeros(work.output)
    for label in range(len(planes)):
        plane = up(planes[label : label + 1], work.output)[0]
        contest.enter(label, plane)
        total += plane
    share = torch.where(total > 0, contest.best / total, torch.zeros_like(total))
    regions = []
    for label in contest.owner.unique().tolist():
        mask = contest.owner == label
        regions.append(Region(float(share[mask].mean()), label, mask.numpy(), contest.close().numpy()))
    return sorted(regions, key=lambda region: -int(region.mask.sum()))


def _probability(work: Work, query: int) -> Tensor:
    return full(work.mask_logits[query : query + 1], work.canvas, work.content, work.output)[0].sigmoid()


class _Contest:
    """The best value so far of each pixel, the next best, and the query that has the best: the first of equals."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.best, self.next = torch.full(size_hw, -1.0), torch.full(size_hw, -1.0)
        self.owner = torch.full(size_hw, -1, dtype=torch.int16)

    def enter(self, index: int, plane: Tensor) -> None:
        """One more contestant, [H, W]."""
        better = plane > self.best
        self.next = torch.where(better, self.best, torch.maximum(self.next, plane))
        self.best = torch.maximum(self.best, plane)
        self.owner[better] = index

    def close(self) -> Tensor:
        """Mark pixels whose two best differ by no more than rounding, as the oracle does."""
        return (self.best - self.next).abs() < 1e-6


def _rle(segment: Segment) -> dict[str, object]:
    return {"size": list(segment.size), "counts": segment.counts.encode()}
