"""Finds images that look alike: a difference hash, its near neighbors without comparing all pairs, and a second look.

dHash (N. Krawetz, Kind of Like That, 2013): in a 9 x 8 gray picture, whether each pixel is darker than the one to its
right. Survives another size, another format and recompression.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BITS = 5  # of 64 that may differ
ALIKE = 0.98  # correlation of two small pictures that are one
FLAT = 2.0  # gray levels, standard deviation: a small picture with less in it is like any other
EDGE = 16  # pixels of the small picture
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # one more than MOST_BITS: one is always equal
_AT_ONCE = 1 << 22  # pairs that are compared together


class Print(NamedTuple):
    """The print of an image: ``bits`` is its hash, and ``small`` EDGE x EDGE gray pixels, as bytes."""

    bits: int
    small: bytes


def print_of(image: NDArray[np.uint8]) -> Print:
    """Returns the print of an RGB image, uint8 [H, W, 3]."""
    gray = Image.fromarray(image).convert("L")
    step = max(1, min(gray.size) // 128)
    gray = gray.reduce(step) if step > 1 else gray
    nine = np.asarray(gray.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits(nine[:, 1:] > nine[:, :-1])
    return Print(int.from_bytes(bits.tobytes()), gray.resize((EDGE, EDGE), Image.Resampling.BOX).tobytes())


def near_pairs(bits: NDArray[np.uint64], most: int = MOST_BITS) -> NDArray[np.int64]:
    """Pairs i < j, [N, 2], of different hashes that differ in at most ``most`` (0 to MOST_BITS) bits.

    Hashes that differ in k bits agree in one of k + 1 bands: only those that share a band are compared.

    >>> near_pairs(np.array([0, 2**63 + 1, 2**64 - 1], np.uint64)).tolist()
    [[0, 1]]
    >>> near_pairs(np.array([], np.uint64)).shape
    (0, 2)
    """
    found = [*_by_bands(bits, most)] if len(bits) else []
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def _by_bands(bits: NDArray[np.uint64], most: int) -> Iterator[NDArray[np.int64]]:
    for shift, width in _BANDS:
        keys = (bits >> np.uint64(shift)) & np.uint64(2**width - 1)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] + np.uint64(1)))
        for members in np.split(order, starts[1:]):
            step = max(1, _AT_ONCE // len(members))
            for first in range(0, len(members), step):
                ours, theirs = members[first : first + step], members[first:]
                distance = np.bitwise_count(bits[ours][:, None] ^ bits[theirs][None])
                i, j = np.nonzero(distance <= most)
                pairs = np.sort(np.stack([ours[i], theirs[j]], axis=1), axis=1)
                yield pairs[pairs[:, 0] < pairs[:, 1]]


def are_alike(first: bytes, second: bytes) -> bool:
    """Says whether two small pictures correlate as those of one image do. Flat ones never do, because any two would."""
    ours, theirs = (np.frombuffer(small, np.uint8).astype(np.float64) for small in (first, second))
    spread = ours.std() * theirs.std()
    if min(ours.std(), theirs.std()) < FLAT:
        return False
    return float(((ours - ours.mean()) * (theirs - theirs.mean())).mean() / spread) > ALIKE
