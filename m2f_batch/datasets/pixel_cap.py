"""Keeps ``data.max_pixels``, the largest image or mask of a dataset, wherever its files are opened."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode.image import decode, pixel_guard, read_size

KEY = "data.max_pixels"
_cap = MAX_PIXELS


@contextmanager
def pixel_cap(most: int | None) -> Iterator[None]:
    """Lets all threads read images of ``most`` pixels meanwhile, or with None of as many as before."""
    global _cap
    before = _cap
    _cap = before if most is None else most
    try:
        yield
    finally:
        _cap = before


def image_of(data: bytes, most: int | None = None) -> NDArray[np.uint8]:
    """An encoded image as RGB, uint8 [H, W, 3], as ``decode`` has it. Raises DecodeError, which names our key."""
    try:
        return decode(data, max_pixels=_cap if most is None else most)
    except DecodeError as error:
        raise error.with_field(KEY) from error


def size_of(data: bytes) -> tuple[int, int]:
    """H, W in pixels that an encoded image is shown in. Raises DecodeError, which names our key."""
    try:
        return read_size(data, max_pixels=_cap)
    except DecodeError as error:
        raise error.with_field(KEY) from error


@contextmanager
def opening() -> Iterator[None]:
    """Lets Pillow open files as large as images may be, and refuse no smaller ones by a limit of its own."""
    with pixel_guard(_cap):
        yield


def check_mask_size(width: int, height: int) -> None:
    """Raises DecodeError for a mask that is larger than an image may be."""
    if width * height > _cap:
        text = f"{width} x {height} = {width * height} pixels are more than the cap of {_cap}"
        raise DecodeError("TooManyPixels", text, field=KEY)
