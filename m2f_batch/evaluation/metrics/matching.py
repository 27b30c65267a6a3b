"""Matches the detections of one image to its objects, as ``COCOeval.evaluateImg`` does for each category.

The best detections come first and take, at each IoU threshold, the free object that fits best. Crowds take any number,
and what they take counts neither as found nor as wrong. Nor does what is out of the range of areas. Areas are those of
masks, which COCO's files now and then have otherwise. ``ignored`` pixels mean nothing here, as in pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.regions import Rle, areas, ious

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # pixels
MAX_DETECTIONS = (1, 10, 100)  # per image and category

# one detection, 37 bytes. ``matched`` and ``ignored`` have a bit per IoU threshold, for each range of areas
DETECTION = np.dtype(
    [
        ("image", np.int64),
        ("category", np.int32),
        ("rank", np.uint8),  # by score, in its image and category
        ("score", np.float64),
        ("matched", np.uint16, (len(AREA_RANGES),)),
        ("ignored", np.uint16, (len(AREA_RANGES),)),
    ]
)
_BITS = 1 << np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)


@dataclass(frozen=True)
class Matches:
    """The result of one image.

    ``detections``: those that count, dtype DETECTION. ``objects``: int64 [K, A], by category and range of areas.
    ``pairs``: int64 [N, 2], which detection took which object at IoU 0.5, crowds aside, with ``ious`` [N].
    """

    detections: NDArray[np.void]
    objects: NDArray[np.int64]
    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]


def match_image(detections: Detections, ground_truth: ImageGroundTruth, isthing: NDArray[np.bool_]) -> Matches:
    """Match detections to the things of an image. ``isthing``, bool [K], says which categories take part."""
    order = _ranked(detections, isthing)
    records = _records(detections, ground_truth, order)
    ignored = ground_truth.iscrowd | ~_in_range(areas(ground_truth.rles))  # [A, G]
    objects = np.zeros((len(isthing), len(AREA_RANGES)), np.int64)
    np.add.at(objects, ground_truth.categories, (~ignored & isthing[ground_truth.categories]).T)
    pairs, pair_ious = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for category in np.intersect1d(detections.categories[order], ground_truth.categories).tolist():
        mine = np.flatnonzero(detections.categories[order] == category)  # of the detections that count
        theirs = np.flatnonzero(ground_truth.categories == category)
        crowd = ground_truth.iscrowd[theirs]
        overlaps = ious(_taken(detections.rles, order[mine]), _taken(ground_truth.rles, theirs), crowd)
        taken = match(overlaps, crowd, ignored[:, theirs])
        _note(records, mine, taken, ignored[:, theirs])
        first = taken[0, 0]
        hits = np.flatnonzero((first >= 0) & ~ignored[0, theirs][first])
        pairs.append(np.stack([order[mine[hits]], theirs[first[hits]]], axis=1))
        pair_ious.append(overlaps[hits, first[hits]])
    return Matches(records, objects, np.concatenate(pairs), np.concatenate(pair_ious))


def match(overlaps: NDArray[np.float64], iscrowd: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find the object that each detection takes: its index or -1, int64 [A, T, D].

    ``overlaps`` is float64 [D, G] with the best score first, ``iscrowd`` bool [G], ``ignored`` bool [A, G].
    """
    least = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    taken = np.full((len(ignored), len(least), len(overlaps)), -1, np.int64)
    free = np.ones((len(ignored), len(least), len(iscrowd)), np.bool_)
    for detection in np.flatnonzero(overlaps.max(axis=1, initial=0) >= least[0]):
        overlap = overlaps[detection]
        fits = free & (overlap >= least[:, None])
        counting = fits & ~ignored[:, None]  # an object that counts goes before any that does not
        fits = np.where(counting.any(axis=2, keepdims=True), counting, fits)
        best = len(overlap) - 1 - np.where(fits, overlap, -1)[..., ::-1].argmax(axis=2)  # the last of equals
        area, level = np.nonzero(fits.any(axis=2))
        chosen = best[area, level]
        taken[area, level, detection] = chosen
        free[area, level, chosen] = iscrowd[chosen]
    return taken


def _ranked(detections: Detections, isthing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Select the detections that count, at most 100 of each category, by score. Ties keep their order."""
    order = np.lexsort((-detections.scores, detections.categories))
    order = order[isthing[detections.categories[order]]]
    return order[_ranks(detections.categories[order]) < MAX_DETECTIONS[-1]]


def _ranks(categories: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of sorted values, how many equal ones come before each."""
    return np.arange(len(categories)) - np.searchsorted(categories, categories)


def _records(detections: Detections, ground_truth: ImageGroundTruth, order: NDArray[np.int64]) -> NDArray[np.void]:
    """The detections in that order as long as nothing is matched: ignored where out of the range of areas."""
    records = np.zeros(len(order), DETECTION)
    records["image"] = ground_truth.image_id
    records["category"] = detections.categories[order]
    records["rank"] = _ranks(detections.categories[order])
    records["score"] = detections.scores[order]
    outside = ~_in_range(areas(_taken(detections.rles, order)))
    records["ignored"] = outside.T * _BITS.sum(dtype=np.uint16)
    return records


def _taken(rles: Sequence[Rle], places: NDArray[np.int64]) -> list[Rle]:
    return [rles[place] for place in places.tolist()]


def _note(
    records: NDArray[np.void], mine: NDArray[np.int64], taken: NDArray[np.int64], ignored: NDArray[np.bool_]
) -> None:
    """Writes into the ``mine`` of the detections what they took."""
    is_matched = taken >= 0
    is_ignored = is_matched & np.take_along_axis(ignored[:, None], taken, axis=2)  # -1 is masked by is_matched
    matched = _packed(is_matched)
    records["ignored"][mine] = (records["ignored"][mine] & ~matched) | _packed(is_ignored)
    records["matched"][mine] = matched


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Bool [A, T, D] as bits, uint16 [D, A]."""
    return (flags * _BITS[:, None]).sum(axis=1, dtype=np.uint16).T


def _in_range(pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the areas in each range, both ends included, bool [A, N]."""
    return np.array([(low <= pixels) & (pixels <= high) for low, high in AREA_RANGES.values()])
