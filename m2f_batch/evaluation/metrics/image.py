"""Holds the ground truth and the detections of one image as arrays and RLE, for all metrics.

Categories are indices into ``Dataset.categories``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2f_batch.errors import Plain, UsageError
from m2f_batch.evaluation.metrics.regions import Rle, rle_of


@dataclass(frozen=True)
class ImageGroundTruth:
    """The ground truth of one image: ``categories`` int64 [G], ``iscrowd`` bool [G], masks, and pixels of no class."""

    image_id: int
    size_hw: tuple[int, int]
    categories: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    rles: Sequence[Rle]
    ignored: Rle | None


@dataclass(frozen=True)
class Detections:
    """The detections in one image: ``categories`` int64 [D], ``scores`` float64 [D], masks."""

    categories: NDArray[np.int64]
    scores: NDArray[np.float64]
    rles: Sequence[Rle]


NOTHING = Detections(np.zeros(0, np.int64), np.zeros(0), ())


def ground_truth_of(image: Mapping[str, Any]) -> ImageGroundTruth:
    """A row of a dataset (``DATASET_SCHEMA``), as Python values."""
    size_hw, segments = (image["height"], image["width"]), image["segments"] or []
    return ImageGroundTruth(
        image["image_id"],
        size_hw,
        np.array([segment["category"] for segment in segments], np.int64),
        np.array([segment["iscrowd"] for segment in segments], np.bool_),
        [rle_of(segment["counts"], size_hw) for segment in segments],
        None if image["ignored"] is None else rle_of(image["ignored"], size_hw),
    )


def detections_of(
    entries: Iterable[Mapping[str, Any]], size_hw: tuple[int, int], category_of: Mapping[int, int]
) -> Detections:
    """Return the ``segments`` of a row. ``category_of`` maps label ids to categories, but those left out."""
    kept = [entry for entry in entries if entry["category_id"] in category_of]
    return Detections(
        np.array([category_of[entry["category_id"]] for entry in kept], np.int64),
        np.array([entry["score"] for entry in kept], np.float64),
        [rle_of(entry["counts"], size_hw) for entry in kept],
    )


def detections_in(
    row: Mapping[str, Any] | None, ground_truth: ImageGroundTruth, category_of: Mapping[int, int]
) -> Detections:
    """Return the detections of a row, none if there is no row or its image failed.

    Raises UsageError for a row of another size than the ground truth.
    """
    if row is None or row["status"] != "ok":
        return NOTHING
    size_hw = (row["height"], row["width"])
    if size_hw != ground_truth.size_hw:
        raise UsageError(
            f"is {_spoken(size_hw)}, but its annotations are of {_spoken(ground_truth.size_hw)} (height x width)",
            field="--ground-truth",
            value=Plain(row["uri"]),
            hint="annotate the image as it is shown, after EXIF orientation",
        )
    return detections_of(row["segments"], size_hw, category_of)


def _spoken(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
