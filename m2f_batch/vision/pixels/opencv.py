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
AT_ONCE = 32  # rows, which stay in the cache


class _Axis(NamedTuple):
    """The two pixels that each output pixel is made of, and their weights, int16."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    first_weight: NDArray[np.int32]
    second_weight: NDArray[np.int32]


def resize_bilinear(image: NDArray[np.uint8], size_hw: SizeHW) -> NDArray[np.uint8]:
    """Resize [H, W, C] to [h, w, C]."""
    (height, width), channels = size_hw, image.shape[2]
    down, across = _axis(image.shape[0], height), _axis(image.shape[1], width, is_across=True)
    rows, places = np.unique(np.concatenate([down.first, down.second]), return_inverse=True)
    wide = _across(image[rows] if len(rows) < len(image) else image, across)
    upper, lower = places[:height], places[height:]
    first_weight, second_weight = down.first_weight[:, None], down.second_weight[:, None]
    resized = np.empty((height, width * channels), np.uint8)
    for y in range(0, height, AT_ONCE):
        some = slice(y, y + AT_ONCE)
        total = (wide[upper[some]] * first_weight[some]) >> 16
        total += (wide[lower[some]] * second_weight[some]) >> 16
        resized[some] = (total + 2) >> 2
    return resized.reshape(height, width, channels)


def _across(image: NDArray[np.uint8], across: _Axis) -> NDArray[np.int16]:
    """Resize rows [h, W, C] to their new width, [h, w * C], in units of 2 ** -7."""
    height, width, channels = image.shape
    flat, each = image.reshape(height, width * channels), np.arange(channels)
    first, second = ((place[:, None] * channels + each).ravel() for place in (across.first, across.second))
    first_weight, second_weight = (
        np.repeat(weight, channels) for weight in (across.first_weight, across.second_weight)
    )
    wide = np.empty((height, len(first)), np.int16)  # at most 255 << 7
    for y in range(0, height, AT_ONCE):
        some = flat[y : y + AT_ONCE]
        total = some.take(first, axis=1) * first_weight
        total += some.take(second, axis=1) * second_weight
        wide[y : y + AT_ONCE] = total >> 4
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
