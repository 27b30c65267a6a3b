"""Measures how well detections fit their objects: Dice and boundary IoU (Cheng et al. 2021) of matched pairs.

A pair is a detection and the object that it took at IoU 0.5, as average precision matches them (crowds aside). Figures
are means over the pairs of a category, and overall over the categories that have any. What was missed does not count
here: ``found`` is the share of objects that are in a pair.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2f_batch.evaluation.metrics.boundary import boundary
from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.matching import Matches
from m2f_batch.evaluation.metrics.regions import ious
from m2f_batch.evaluation.metrics.values import Values, mean_of, ratio, value_of


@dataclass
class MatchedPairs:
    """Sums over images by category, [K], for those of ``metrics`` that are asked: dice, boundary-iou."""

    categories: int
    metrics: frozenset[str]
    objects: NDArray[np.int64] = field(init=False)
    pairs: NDArray[np.int64] = field(init=False)
    dice: NDArray[np.float64] = field(init=False)
    edges: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.objects, self.pairs = np.zeros((2, self.categories), np.int64)
        self.dice, self.edges = np.zeros((2, self.categories))

    def add(self, matches: Matches, detections: Detections, ground_truth: ImageGroundTruth) -> None:
        """One more image."""
        matched = ground_truth.categories[matches.pairs[:, 1]]
        self.objects += matches.objects[:, 0]
        np.add.at(self.pairs, matched, 1)
        np.add.at(self.dice, matched, 2 * matches.ious / (1 + matches.ious))
        if "boundary-iou" in self.metrics:
            for category, (mine, theirs) in zip(matched, matches.pairs, strict=True):
                edges = [boundary(detections.rles[mine])], [boundary(ground_truth.rles[theirs])]
                self.edges[category] += ious(*edges, [False])[0, 0]

    def merge(self, other: "MatchedPairs") -> None:
        """All images of another one."""
        self.objects += other.objects
        self.pairs += other.pairs
        self.dice += other.dice
        self.edges += other.edges

    def summary(self) -> tuple[Values, list[Values]]:
        """Dice, boundary_IoU and found, overall and by category."""
        columns = {"Dice": self.dice} if "dice" in self.metrics else {}
        columns |= {"boundary_IoU": self.edges} if "boundary-iou" in self.metrics else {}
        each = {name: ratio(sums, self.pairs) for name, sums in columns.items()}
        each |= {"found": ratio(self.pairs, self.objects)}
        overall = {name: mean_of(values) for name, values in each.items()}
        return overall, [{name: value_of(values[k]) for name, values in each.items()} for k in range(self.categories)]
