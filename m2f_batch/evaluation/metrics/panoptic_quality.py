"""Panoptic quality (Kirillov et al. 2019), as panopticapi's ``pq_compute`` counts it.

A true and a found segment of one category match where their IoU, pixels of no class left out, is over 0.5. Crowds are
never missed. What lies for more than half in pixels of no class, or in a crowd of its category, is not wrong.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.regions import areas, intersections
from m2f_batch.evaluation.metrics.values import Values, mean_of, ratio, value_of


@dataclass
class PanopticQuality:
    """Sums over images by category: ``iou`` of matches float64 [K], ``matched``, ``wrong``, ``missed`` int64 [K]."""

    isthing: NDArray[np.bool_]
    iou: NDArray[np.float64] = field(init=False)
    matched: NDArray[np.int64] = field(init=False)
    wrong: NDArray[np.int64] = field(init=False)
    missed: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        categories = len(self.isthing)
        self.iou = np.zeros(categories)
        self.matched, self.wrong, self.missed = np.zeros((3, categories), np.int64)

    def add(self, detections: Detections, ground_truth: ImageGroundTruth) -> None:
        """One more image."""
        shared = intersections(detections.rles, ground_truth.rles)
        sizes, true_sizes = areas(detections.rles), areas(ground_truth.rles)
        void = (
            np.zeros_like(sizes)
            if ground_truth.ignored is None
            else intersections(detections.rles, [ground_truth.ignored])[:, 0]
        )
        union = sizes[:, None] + true_sizes - shared - void[:, None]
        may_match = (detections.categories[:, None] == ground_truth.categories) & ~ground_truth.iscrowd
        overlap = np.where(may_match, shared / np.maximum(union, 1), 0)
        mine, theirs = _one_to_one(overlap)
        matched = ground_truth.categories[theirs]
        np.add.at(self.iou, matched, overlap[mine, theirs])
        np.add.at(self.matched, matched, 1)
        np.add.at(self.missed, ground_truth.categories[_others(len(true_sizes), theirs) & ~ground_truth.iscrowd], 1)
        excused = void + _in_crowds(detections, ground_truth, shared)
        np.add.at(self.wrong, detections.categories[_others(len(sizes), mine) & (2 * excused <= sizes)], 1)

    def merge(self, other: "PanopticQuality") -> None:
        """All images of another one."""
        self.iou += other.iou
        self.matched += other.matched
        self.wrong += other.wrong
        self.missed += other.missed

    def summary(self) -> tuple[Values, list[Values]]:
        """Return PQ, SQ and RQ over the categories that occur, over things and stuff alone, and by category."""
        whole = self.matched + self.wrong / 2 + self.missed / 2
        recognition = ratio(self.matched, whole)
        each = {
            "PQ": ratio(self.iou, whole),
            "SQ": np.where(self.matched > 0, ratio(self.iou, self.matched), np.where(whole > 0, 0, np.nan)),
            "RQ": recognition,
        }
        overall: Values = {name: mean_of(values) for name, values in each.items()}
        for ending, chosen in (("th", self.isthing), ("st", ~self.isthing)):
            overall |= {f"{name}_{ending}": mean_of(values[chosen]) for name, values in each.items()}
        categories = range(len(self.isthing))
        return overall, [{name: value_of(values[k]) for name, values in each.items()} for k in categories]


def _one_to_one(overlap: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair segments with an IoU over 0.5. Where segments overlap, the best pairs come first."""
    mine, theirs = np.nonzero(overlap > 0.5)
    order = np.argsort(-overlap[mine, theirs], kind="stable")
    for axis in (0, 1):
        values = (mine, theirs)[axis][order]
        order = order[np.sort(np.unique(values, return_index=True)[1])]
    return mine[order], theirs[order]


def _in_crowds(detections: Detections, ground_truth: ImageGroundTruth, shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pixels of each detection in a crowd of its category, int64 [D], in the last of many crowds."""
    last = {int(ground_truth.categories[place]): place for place in np.flatnonzero(ground_truth.iscrowd)}
    places = [last.get(int(category), -1) for category in detections.categories]
    return np.array([shared[i, place] if place >= 0 else 0 for i, place in enumerate(places)], np.int64)


def _others(count: int, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    left = np.ones(count, np.bool_)
    left[chosen] = False
    return left
