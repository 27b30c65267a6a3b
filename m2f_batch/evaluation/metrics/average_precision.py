"""Mask average precision of all images, as ``COCOeval.accumulate`` and ``summarize`` of pycocotools have it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2f_batch.evaluation.metrics.matching import AREA_RANGES, DETECTION, IOU_THRESHOLDS, MAX_DETECTIONS, Matches
from m2f_batch.evaluation.metrics.values import Values, mean_of

RECALLS = np.linspace(0, 1, 101)


@dataclass
class AveragePrecision:
    """Matches of images, 37 bytes a detection. What it says does not depend on the order in which they came."""

    isthing: NDArray[np.bool_]
    detections: list[NDArray[np.void]] = field(default_factory=list)
    objects: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.objects = np.zeros((len(self.isthing), len(AREA_RANGES)), np.int64)

    def add(self, matches: Matches) -> None:
        """One more image, each once."""
        self.detections.append(matches.detections)
        self.objects += matches.objects

    def merge(self, other: "AveragePrecision") -> None:
        """All images of another one."""
        self.detections += other.detections
        self.objects += other.objects

    def summary(self) -> tuple[Values, list[Values]]:
        """Overall and by category: AP, AP50, AP75, by size of objects, and average recall for 1, 10, 100 detections."""
        precision, recall = accumulate(np.concatenate([np.zeros(0, DETECTION), *self.detections]), self.objects)
        each = [_summary(precision[:, :, [k]], recall[:, [k]]) for k in range(len(self.isthing))]
        return _summary(precision, recall), each


def accumulate(
    detections: NDArray[np.void], objects: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M], -1 where there are no objects.

    T IoU thresholds, R recalls, K categories, A ranges of areas, M numbers of detections. ``objects`` is [K, A].
    """
    categories, levels = len(objects), len(IOU_THRESHOLDS)
    precision = np.full((levels, len(RECALLS), categories, len(AREA_RANGES), len(MAX_DETECTIONS)), -1.0)
    recall = np.full((levels, categories, len(AREA_RANGES), len(MAX_DETECTIONS)), -1.0)
    # best score first, of equal ones the lower image id, then in the order of the detections
    order = np.lexsort((detections["rank"], detections["image"], -detections["score"], detections["category"]))
    detections = detections[order]
    starts = np.searchsorted(detections["category"], np.arange(categories + 1))
    for k, a in np.argwhere(objects > 0):
        mine = detections[starts[k] : starts[k + 1]]
        found, ignored = _bits(mine["matched"][:, a]), _bits(mine["ignored"][:, a])
        for m, most in enumerate(MAX_DETECTIONS):
            kept = mine["rank"] < most
            curve = _curve((found & ~ignored)[:, kept], (~found & ~ignored)[:, kept], int(objects[k, a]))
            precision[:, :, k, a, m], recall[:, k, a, m] = curve
    return precision, recall


def _curve(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute precision at each of RECALLS [T, R], never rising, and recall [T] from flags [T, D], best first."""
    hits, misses = right.cumsum(axis=1).astype(float), wrong.cumsum(axis=1).astype(float)
    reached = hits / objects
    exact = hits / (misses + hits + np.spacing(1))
    envelope = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))  # 0 at recalls that are not reached
    places = np.array([np.searchsorted(line, RECALLS, side="left") for line in reached])
    return np.take_along_axis(envelope, places, axis=1), hits[:, -1] / objects if hits.size else np.zeros(len(right))


def _bits(packed: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Bits [D] as bool [T, D]."""
    return (packed >> np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)[:, None] & 1).astype(bool)


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> Values:
    sizes = dict(zip("asml", range(len(AREA_RANGES)), strict=True))
    values = {"AP": precision[..., 0, -1], "AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    values |= {f"AP{size}": precision[..., sizes[size], -1] for size in "sml"}
    values |= {f"AR{most}": recall[..., 0, m] for m, most in enumerate(MAX_DETECTIONS)}
    values |= {f"AR{size}": recall[..., sizes[size], -1] for size in "sml"}
    return {name: mean_of(found[found > -1]) for name, found in values.items()}
