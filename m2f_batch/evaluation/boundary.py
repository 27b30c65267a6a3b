"""Boundary regions of masks (Cheng et al. 2021, "Boundary IoU", section 4.1).

The boundary of a mask is its pixels within a distance d of its contour; d is 2 % of the image's diagonal. As in the
authors' ``mask_to_boundary``: distance is the larger of both axes' (d erosions by 3x3), and the image's border is a
contour, too.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.evaluation.regions import Rle

DILATION_RATIO = 0.02  # of the diagonal


def boundary_width(size_hw: tuple[int, int]) -> int:
    """The distance d in pixels, at least 1.

    >>> boundary_width((480, 640)), boundary_width((10, 10))
    (16, 1)
    """
    return max(1, round(DILATION_RATIO * math.hypot(*size_hw)))


def boundary(rle: Rle) -> Rle:
    """The boundary region of a mask, as RLE. One mask of the image is decoded at a time."""
    height, width = rle["size"]
    mask = coco_mask.decode(rle).T  # [W, H], contiguous
    left, top, w, h = (int(value) for value in coco_mask.toBbox(rle))
    box = mask[left : left + w, top : top + h]
    box ^= eroded(box, boundary_width((height, width)))
    return coco_mask.encode(mask.T)


def eroded(mask: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """The pixels whose square of 2 x distance + 1 lies in the mask, which nothing outside of the array belongs to."""
    return _eroded_rows(_eroded_rows(mask, distance).T, distance).T


def _eroded_rows(mask: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """The same along the first axis alone, by windows of twice the length each time."""
    span = 2 * distance + 1
    inner = np.zeros_like(mask)
    if len(mask) < span:
        return inner
    window, length = mask, 1
    while length < span:
        step = min(length, span - length)
        window, length = window[:-step] & window[step:], length + step
    inner[distance : len(mask) - distance] = window
    return inner
