"""Metrics of rows against a dataset, an image at a time: what a run and a validation while training are measured by.

    evaluator = Evaluator(dataset.categories, "instance", {label id: index into dataset.categories})
    for row, image in ...:               # a row as in Parquet, a row of the dataset's table
        evaluator.add(row, image)
    evaluator.summary()["metrics"]["AP"]

Evaluators of shares of the images are merged in any order, and can be pickled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import UsageError
from m2f_batch.evaluation.metrics.average_precision import AveragePrecision
from m2f_batch.evaluation.metrics.class_regions import ClassRegions
from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth, detections_in, ground_truth_of
from m2f_batch.evaluation.metrics.matched_pairs import MatchedPairs
from m2f_batch.evaluation.metrics.matching import match_image
from m2f_batch.evaluation.metrics.panoptic_quality import PanopticQuality
from m2f_batch.evaluation.metrics.values import Values
from m2f_batch.messages.foreign_words import meant_value

# what each task's rows can be measured by
METRICS: dict[Task, tuple[str, ...]] = {
    "instance": ("ap", "dice", "boundary-iou"),
    "panoptic": ("pq", "miou", "dice", "boundary-iou"),
    "semantic": ("miou", "dice", "boundary-iou"),
}
USUAL: dict[Task, tuple[str, ...]] = {"panoptic": ("pq", "miou")}  # all, of the others
MAIN: dict[Task, str] = {"instance": "AP", "panoptic": "PQ", "semantic": "mIoU"}  # by which models are compared


def metrics_of(task: Task, asked: Sequence[str] | None = None) -> frozenset[str]:
    """The metrics that are asked, or a task's usual ones. Raises UsageError for one that does not fit the task."""
    for metric in asked or ():
        if metric not in METRICS[task]:
            problem, hint = f"is not known for {task} rows", meant_value(metric, METRICS[task])
            raise UsageError(problem, field="--metrics", value=metric, allowed=", ".join(METRICS[task]), hint=hint)
    return frozenset(asked or USUAL.get(task, ()) or METRICS[task])


@dataclass
class Evaluator:
    """Accumulates metrics. Memory: 37 bytes per detection for AP, constant otherwise, because no masks are kept.

    ``category_of`` maps the model's label ids to indices into ``categories``. Labels that it lacks are left out.
    """

    categories: Sequence[Category]
    task: Task
    category_of: Mapping[int, int]
    metrics: frozenset[str] = frozenset()
    images: int = 0
    parts: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.metrics = metrics_of(self.task, sorted(self.metrics))
        self.isthing = np.array([category.isthing for category in self.categories], np.bool_)
        regions = self.metrics & {"miou", "dice", "boundary-iou"}
        if "ap" in self.metrics:
            self.parts["ap"] = AveragePrecision(self.isthing)
        if "pq" in self.metrics:
            self.parts["pq"] = PanopticQuality(self.isthing)
        if regions:
            kind = MatchedPairs if self.task == "instance" else ClassRegions
            self.parts["regions"] = kind(len(self.categories), regions)

    def add(self, row: Mapping[str, Any] | None, image: Mapping[str, Any]) -> None:
        """One more image: its row and its ground truth (a row of ``DATASET_SCHEMA``), as Python values.

        No row, or one that failed, is one without detections. Raises UsageError for a row of another size.
        """
        ground_truth = ground_truth_of(image)
        self.add_detections(detections_in(row, ground_truth, self.category_of), ground_truth)

    def add_detections(self, detections: Detections, ground_truth: ImageGroundTruth) -> None:
        """The same of arrays."""
        self.images += 1
        if "pq" in self.parts:
            self.parts["pq"].add(detections, ground_truth)
        if self.task != "instance":
            if "regions" in self.parts:
                self.parts["regions"].add(detections, ground_truth)
            return
        matches = match_image(detections, ground_truth, self.isthing)
        if "ap" in self.parts:
            self.parts["ap"].add(matches)
        if "regions" in self.parts:
            self.parts["regions"].add(matches, detections, ground_truth)

    def merge(self, other: "Evaluator") -> None:
        """Add all images of another evaluator of the same categories, task and metrics. None may be in both."""
        self.images += other.images
        for name, part in self.parts.items():
            part.merge(other.parts[name])

    def summary(self) -> dict[str, Any]:
        """Return ``images``, ``metrics`` {name: figure} and ``classes`` [{id, name, isthing, figures ...}].

        All figures are shares of 1, and None where nothing could be measured.
        """
        overall: Values = {}
        classes: list[dict[str, Any]] = [
            {"id": category.id, "name": category.name, "isthing": category.isthing} for category in self.categories
        ]
        for part in self.parts.values():
            values, each = part.summary()
            overall |= values
            for entry, more in zip(classes, each, strict=True):
                entry |= more
        return {"images": self.images, "metrics": overall, "classes": classes}
