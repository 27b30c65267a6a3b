"""Encodes masks and runs as compressed COCO RLE, with the mask's own area and box."""

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


class _Rle(TypedDict):
    """A mask as pycocotools has it, ``size`` as [height, width]."""

    counts: bytes
    size: list[int]


class MaskCode(NamedTuple):
    """``counts`` (compressed, column-major), ``area`` in pixels, ``bbox`` [x, y, w, h] in pixels."""

    counts: str
    area: int
    bbox: tuple[float, float, float, float]


def encode_mask(mask: NDArray[np.bool_]) -> MaskCode:
    """Encode a mask, bool [H, W].

    >>> encode_mask(np.array([[0, 1], [0, 1]], dtype=bool))
    MaskCode(counts='22', area=2, bbox=(1.0, 0.0, 1.0, 2.0))
    """
    return _described(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def encode_edges(edges: NDArray[np.int64], size_hw: tuple[int, int]) -> MaskCode:
    """Encode a mask by its edges, the places where it begins and ends in turn: column-major, int64, not descending.

    Equal edges cancel out, as an end does where the next run begins at once. No pixel is looked at.

    >>> encode_edges(np.array([2, 3, 3, 4]), (2, 2))
    MaskCode(counts='22', area=2, bbox=(1.0, 0.0, 1.0, 2.0))
    """
    height, width = size_hw
    runs = np.diff(_without_pairs(edges), prepend=0, append=height * width)
    if len(runs) > 1 and runs[-1] == 0:  # the mask ends in the last pixel
        runs = runs[:-1]
    return _described(coco_mask.frPyObjects({"counts": runs, "size": [height, width]}, height, width))


def _without_pairs(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of equal edges next to each other, one if their number is odd, else none."""
    changes = np.flatnonzero(np.diff(edges, prepend=-1))
    if len(changes) == len(edges):
        return edges
    return edges[changes[np.diff(changes, append=len(edges)) % 2 == 1]]


def _described(rle: _Rle) -> MaskCode:
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    return MaskCode(rle["counts"].decode(), int(coco_mask.area(rle)), (x, y, w, h))


def decode_mask(counts: str, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask behind ``counts``, bool [H, W]."""
    return coco_mask.decode({"size": list(size_hw), "counts": counts.encode()}).astype(bool)


def run_lengths(counts: str) -> NDArray[np.int64]:
    """The runs behind ``counts``, alternately background and mask, int64 [N].

    Format (``rleFrString`` of pycocotools): base-32 digits from "0" up, low digit first, 0x20 = more digits follow,
    0x10 of the last digit = negative; from the third run on, each is the difference to the run two before.

    >>> run_lengths("22").tolist()
    [2, 2]
    """
    digits = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    ends = np.flatnonzero((digits & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((digits & 0x1F) << (5 * place), starts)
    values -= np.where(digits[ends] & 0x10, np.int64(1) << (5 * (ends - starts + 1)), 0)
    # undo the differences: the odd and the even runs are two chains, and the first run is in neither
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
