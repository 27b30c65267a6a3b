"""Masks of one image as COCO RLE: what they share, without decoding them.

An ``Rle`` is what pycocotools takes: {"size": [height, width], "counts": compressed bytes}.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.vision.masks.rle import run_lengths

Rle = dict[str, Any]


def rle_of(counts: str, size_hw: tuple[int, int]) -> Rle:
    """The RLE of a row's or a dataset's ``counts``."""
    return {"size": list(size_hw), "counts": counts.encode()}


def areas(rles: Sequence[Rle]) -> NDArray[np.int64]:
    """Pixels of each mask, int64 [N]."""
    return np.asarray(coco_mask.area([*rles]), np.int64) if len(rles) else np.zeros(0, np.int64)


def ious(detections: Sequence[Rle], ground_truth: Sequence[Rle], iscrowd: Iterable[bool]) -> NDArray[np.float64]:
    """Compute intersection over union, float64 [N, M], over the detection's area alone where the object is a crowd."""
    if not len(detections) or not len(ground_truth):
        return np.zeros((len(detections), len(ground_truth)))
    return np.asarray(coco_mask.iou([*detections], [*ground_truth], [int(crowd) for crowd in iscrowd]))


def intersections(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.int64]:
    """Pixels that each of N masks shares with each of M, int64 [N, M].

    >>> a, b = rle_of("22", (2, 2)), rle_of("13", (2, 2))  # the right column, and all but the top left pixel
    >>> intersections([a, b], [b])
    array([[2], [3]])
    """
    shares = ious(first, second, [True] * len(second))  # quotients of integers that a double holds exactly
    return np.rint(shares * areas(first)[:, None]).astype(np.int64)


def joined(rles: Sequence[Rle]) -> Rle:
    """The pixels of any of the masks, at least one."""
    return rles[0] if len(rles) == 1 else coco_mask.merge([*rles])


def common(first: Rle, second: Rle) -> Rle:
    """The pixels of both masks."""
    return coco_mask.merge([first, second], intersect=True)


def inverted(rle: Rle) -> Rle:
    """The pixels outside of the mask.

    >>> inverted(rle_of("22", (2, 2)))["counts"]
    b'022'
    """
    height, width = rle["size"]
    runs = run_lengths(rle["counts"].decode())
    runs = runs[1:] if len(runs) > 1 and runs[0] == 0 else np.concatenate([[0], runs])
    return coco_mask.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
