"""Measures the region of each class, its segments taken together: IoU, Dice and boundary IoU.

All three are of pixels summed over all images first: IoU = common / (true + found - common), Dice = 2 common / (true +
found), and boundary IoU is the IoU of boundary regions (Cheng et al. 2021), each that of a class's whole region in an
image. Pixels of no class (``ignored``) are left out once the boundaries are known. Overall figures are means over the
classes that the ground truth holds, as in detectron2's ``SemSegEvaluator``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2f_batch.evaluation.metrics.boundary import boundary
from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.regions import Rle, areas, common, intersections, inverted, joined
from m2f_batch.evaluation.metrics.values import Values, mean_of, ratio, value_of

Regions = dict[int, Rle]


@dataclass
class PixelSums:
    """Pixels by category, summed over images: in both, true, found, each int64 [K]."""

    categories: int
    common: NDArray[np.int64] = field(init=False)
    true: NDArray[np.int64] = field(init=False)
    found: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.common, self.true, self.found = np.zeros((3, self.categories), np.int64)

    def add(self, detections: Regions, ground_truth: Regions) -> None:
        """One more image."""
        for sums, regions in ((self.found, detections), (self.true, ground_truth)):
            sums[[*regions]] += areas([*regions.values()])
        for category in detections.keys() & ground_truth.keys():
            self.common[category] += intersections([detections[category]], [ground_truth[category]])[0, 0]

    def merge(self, other: "PixelSums") -> None:
        """All images of another one."""
        self.common += other.common
        self.true += other.true
        self.found += other.found

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union, float64 [K], NaN for classes of no pixel."""
        return ratio(self.common, self.true + self.found - self.common)

    def dice(self) -> NDArray[np.float64]:
        """Return Dice's coefficient, float64 [K], NaN for classes of no pixel."""
        return ratio(2 * self.common, self.true + self.found)


@dataclass
class ClassRegions:
    """Sums over images for those of ``metrics`` that are asked: miou, dice, boundary-iou."""

    categories: int
    metrics: frozenset[str]
    whole: PixelSums = field(init=False)
    edges: PixelSums = field(init=False)

    def __post_init__(self) -> None:
        self.whole, self.edges = PixelSums(self.categories), PixelSums(self.categories)

    def add(self, detections: Detections, ground_truth: ImageGroundTruth) -> None:
        """One more image."""
        valid = None if ground_truth.ignored is None else inverted(ground_truth.ignored)
        mine, theirs = (
            _regions(detections.categories, detections.rles),
            _regions(ground_truth.categories, ground_truth.rles),
        )
        self.whole.add(_within(mine, valid), _within(theirs, valid))
        if "boundary-iou" in self.metrics:
            self.edges.add(_within(_boundaries(mine), valid), _within(_boundaries(theirs), valid))

    def merge(self, other: "ClassRegions") -> None:
        """All images of another one."""
        self.whole.merge(other.whole)
        self.edges.merge(other.edges)

    def summary(self) -> tuple[Values, list[Values]]:
        """mIoU, Dice and boundary_IoU overall, IoU, Dice and boundary_IoU by category."""
        columns = {"miou": ("mIoU", "IoU", self.whole.iou()), "dice": ("Dice", "Dice", self.whole.dice())}
        columns["boundary-iou"] = ("boundary_IoU", "boundary_IoU", self.edges.iou())
        asked = [columns[metric] for metric in columns if metric in self.metrics]
        overall = {name: mean_of(values[self.whole.true > 0]) for name, _, values in asked}
        return overall, [{name: value_of(values[k]) for _, name, values in asked} for k in range(self.categories)]


def _regions(categories: NDArray[np.int64], rles: Sequence[Rle]) -> Regions:
    """All pixels of each category that is there."""
    return {
        category: joined([rles[place] for place in np.flatnonzero(categories == category).tolist()])
        for category in np.unique(categories).tolist()
    }


def _within(regions: Regions, valid: Rle | None) -> Regions:
    return regions if valid is None else {category: common(rle, valid) for category, rle in regions.items()}


def _boundaries(regions: Regions) -> Regions:
    return {category: boundary(rle) for category, rle in regions.items()}
