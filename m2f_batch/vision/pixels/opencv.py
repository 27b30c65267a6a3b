"""Resizes uint8 images as OpenCV's ``INTER_LINEAR`` does, to the bit, without OpenCV.

The numbers are those of ``modules/imgproc/src/resize.cpp`` of OpenCV 4: weights of 11 bits, and what is shifted out is
lost. Pillow and torch round elsewhere: a level apart when they enlarge, and up to 50 levels where they average what
they shrink.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from m2f_batch.models.preprocess_plan import SizeHW

BITS = 11  # of a weight


class _Axis(NamedTuple):
    """The two pixels that each output pixel is made of, and their weights, int16."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    first_weight: NDArray[np.int32]
    second_weight: NDArray[np.int32]


def resize_bilinear(image: NDArray[np.uint8], size_hw: SizeHW) -> NDArray[np.uint8]:
    """Resize [H, W, C] to [h, w, C]."""
    down, across = _axis(image.shape[0], size_hw[0]), _axis(image.shape[1], size_hw[1], is_across=True)
    rows, places = np.unique(np.concatenate([down.first, down.second]), return_inverse=True)
    resized = np.empty((*size_hw, image.shape[2]), np.uint8)
    wide = _across(image[rows] if len(rows) < len(image) else image, across)
    upper, lower = places[: size_hw[0]], places[size_hw[0] :]
    for y in range(size_hw[0]):  # a row at a time stays in the cache
        total = ((wide[upper[y]] * down.first_weight[y]) >> 16) + ((wide[lower[y]] * down.second_weight[y]) >> 16)
        resized[y] = (total + 2) >> 2
    return resized


def _across(rows: NDArray[np.uint8], across: _Axis) -> NDArray[np.int32]:
    """Rows [h, W, C] at their new width, [h, w, C], in units of 2 ** -7."""
    wide = np.empty((len(rows), len(across.first), rows.shape[2]), np.int32)
    first_weight, second_weight = across.first_weight[:, None], across.second_weight[:, None]
    for y, row in enumerate(rows):
        wide[y] = (row[across.first] * first_weight + row[across.second] * second_weight) >> 4
    return wide


def _axis(length: int, wanted: int, *, is_across: bool = False) -> _Axis:
    scale = 1.0 / (wanted / length)
    exact = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(exact).astype(np.intp)
    share = exact - first.astype(np.float32)
    if is_across:  # down the image, a border pixel is weighted with itself, and loses what is shifted out twice
        share[(first < 0) | (first >= length - 1)] = 0
    first_weight, second_weight = (
        np.rint(weight * np.float32(1 << BITS)).astype(np.int32) for weight in (np.float32(1) - share, share)
    )
    return _Axis(first.clip(0, length - 1), (first + 1).clip(0, length - 1), first_weight, second_weight)
