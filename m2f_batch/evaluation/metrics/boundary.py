"""Boundary regions of masks (Cheng et al. 2021, "Boundary IoU", section 4.1).

The boundary of a mask is its pixels within a distance d of its contour, 2 % of the image's diagonal. As in the
authors' ``mask_to_boundary``: distance is the larger of both axes' (d erosions by 3x3), and the image's border is a
contour, too.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.evaluation.metrics.regions import Rle, rle_of
from m2f_batch.vision.masks.rle import encode_edges, run_lengths

DILATION_RATIO = 0.02  # of the diagonal


def boundary_width(size_hw: tuple[int, int]) -> int:
    """The distance d in pixels, at least 1.

    >>> boundary_width((480, 640)), boundary_width((10, 10))
    (16, 1)
    """
    return max(1, round(DILATION_RATIO * math.hypot(*size_hw)))


def boundary(rle: Rle) -> Rle:
    """The boundary region of a mask, as RLE. Only the columns that the mask reaches are decoded, then encoded again."""
    size_hw = height, _ = (rle["size"][0], rle["size"][1])
    left, top, w, h = (int(value) for value in coco_mask.toBbox(rle))
    runs = run_lengths(rle["counts"].decode())
    edges = np.cumsum(runs)[: len(runs) // 2 * 2] - left * height  # where the mask begins and ends in turn
    lengths = np.diff(edges, prepend=0, append=w * height)
    columns = np.repeat((np.arange(len(lengths)) & 1).astype(np.uint8), lengths).reshape(w, height)
    box = columns[:, top : top + h]
    box ^= eroded(box, boundary_width(size_hw))
    flat = np.pad(columns.ravel(), 1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    return rle_of(encode_edges(edges, size_hw).counts, size_hw)


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
