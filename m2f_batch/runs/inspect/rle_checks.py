"""Checks many compressed RLE codes at once: is each the one encoding of a mask, and where do its runs lie.

Numpy passes over all digits of a block of codes. ``vision/masks/rle.py`` has the format, for one code. A number is zero
or more digits that promise another and one that closes it, so its index among the numbers is the index of its closing
digit less the number of promising digits before. Work per digit is done for the promising ones alone, which are few.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_PIXELS = 2**32  # of a mask, because pycocotools holds runs as 32-bit numbers
MOST_DIGITS = 7  # base-32, of one 32-bit number at most
CLOSING = np.array([digit - 2 * (digit & 16) for digit in range(32)], np.int64)  # the highest digit has the sign


class Runs(NamedTuple):
    """The runs of N masks in column-major order, one mask behind the other on one axis of pixels.

    ``begins`` and ``ends`` int64 [R]: where each run of a mask begins and ends (exclusive) on that axis. The last run
    of a mask that ends with background, or is empty, has no pixels. ``firsts`` int64 [N + 1]: mask i has the runs
    firsts[i] to firsts[i + 1]. ``origins`` int64 [N]: where mask i begins on the axis.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    firsts: NDArray[np.int64]
    origins: NDArray[np.int64]


def canonical(counts: pa.StringArray, pixels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Runs]:
    """Find the codes [N] that pycocotools gives for some mask of that many ``pixels`` [N], and their runs.

    Exact: the digits are of the alphabet, and every number is closed and has no digit too many. No run but the first
    is empty, none is negative, and they add up to ``pixels``. A code that fails one of these is another spelling of a
    mask, or of none.

    >>> good, runs = canonical(pa.array(["22", "2200", "13"]), np.array([4, 4, 4]))
    >>> good.tolist(), runs.begins.tolist(), runs.ends.tolist(), runs.origins.tolist()
    ([True, False, True], [2, 5], [4, 8], [0, 4])
    """
    good = _are_spelled(counts) & (pixels > 0) & (pixels < MOST_PIXELS)
    while True:
        wanted = pixels[good]
        lengths, firsts, odd = _run_lengths(_only(counts, good))
        ends = np.cumsum(lengths[0]) + np.cumsum(lengths[1])
        origins = np.concatenate([[0], ends[firsts[1:] - 1]])
        fits = _without_gaps(lengths, firsts, odd) & (np.diff(origins) == wanted)
        if fits.all():
            return good, Runs(ends - lengths[1], ends, firsts, origins[:-1])
        good[good] = fits


def overlapping(runs: Runs, image: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the images in which two masks share a pixel.

    ``image`` [N] is the image of each mask, ascending, and ``pixels`` [N] its size. Intervals are disjoint exactly if,
    both sorted, each ends before the next begins.
    """
    spans = np.zeros(image[-1] + 2 if len(image) else 1, np.int64)
    spans[image + 1] = pixels
    origins = np.cumsum(spans)  # images, not masks, one behind the other
    shift = np.repeat(origins[image] - runs.origins, np.diff(runs.firsts))
    # a stable sort makes use of each mask's runs being in order
    begins, ends = (np.sort(edges + shift, kind="stable") for edges in (runs.begins, runs.ends))
    shared = begins[1:][ends[:-1] > begins[1:]]
    return np.unique(np.searchsorted(origins, shared, side="right") - 1)


def _only(counts: pa.StringArray, wanted: NDArray[np.bool_]) -> pa.StringArray:
    return counts if wanted.all() else counts.filter(pa.array(wanted))


def _digits(counts: pa.StringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits of all codes, and where each code's begin, [N + 1]. What is no digit is over 63."""
    _, offsets, data = counts.buffers()
    if not len(counts) or data is None or not data.size:
        return np.zeros(0, np.uint8), np.zeros(len(counts) + 1, np.int64)
    bounds = np.frombuffer(offsets, np.int32)[counts.offset : counts.offset + len(counts) + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] - np.uint8(48), bounds - bounds[0]


def _are_spelled(counts: pa.StringArray) -> NDArray[np.bool_]:
    """Find the codes that are one or more numbers, each spelled as pycocotools spells it."""
    digits, bounds = _digits(counts)
    good = bounds[1:] > bounds[:-1]
    good[good] = digits[bounds[1:][good] - 1] < 32  # the last digit closes its number
    if not good.all() or (digits.size and digits.max() > 63):
        good[_codes_of(bounds, np.flatnonzero(digits > 63))] = False
        if good.any():  # a number that is not closed reaches into the next code: the others are looked at alone
            good[good] = _are_spelled(counts.filter(pa.array(good)))
        return good
    open_ = np.flatnonzero(digits >= 32)
    if len(open_):
        digit, following = digits[open_], digits[open_ + 1]
        # a closing digit that only repeats the sign of the one before it says nothing
        idle = np.where(digit & 16, following == 31, following == 0)
        idle[: 1 - MOST_DIGITS] |= open_[MOST_DIGITS - 1 :] - open_[: 1 - MOST_DIGITS] == MOST_DIGITS - 1
        good[_codes_of(bounds, open_[idle])] = False
    return good


def _codes_of(bounds: NDArray[np.int64], digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the code that each digit lies in."""
    return np.searchsorted(bounds, digits, side="right") - 1


def _numbers(counts: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the signed numbers of well-spelled codes, and where each code's begin, [N + 1]."""
    digits, bounds = _digits(counts)
    is_closing = digits < 32
    values = CLOSING[digits[is_closing]]
    open_ = np.flatnonzero(~is_closing)
    owner = open_ - np.arange(len(open_))  # the number that each belongs to
    now = np.flatnonzero(is_closing[open_ + 1]) if len(open_) else open_
    while len(now):  # from the highest place to the lowest
        values[owner[now]] = (values[owner[now]] << 5) | (digits[open_[now]] & 31)
        now = now[now > 0]
        now = now[owner[now - 1] == owner[now]] - 1
    return values, bounds - np.searchsorted(open_, bounds)


def _run_lengths(counts: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Run lengths [2, R] of well-spelled codes: of background, and of the mask run behind it.

    Also where each code's begin, [N + 1], and which codes end with background, [N]: their last mask run is 0. From
    the fourth number on, each number is the difference to the run two before, so the two rows are two chains.
    """
    numbers, bounds = _numbers(counts)
    odd = np.diff(bounds) % 2 == 1
    firsts = np.concatenate([[0], np.cumsum((np.diff(bounds) + 1) // 2)])
    starts, lasts = firsts[:-1], firsts[1:] - 1
    flat = np.zeros(2 * firsts[-1], np.int64)
    is_number = np.ones(len(flat), bool)
    is_number[2 * lasts[odd] + 1] = False
    flat[is_number] = numbers
    chains = np.ascontiguousarray(flat.reshape(-1, 2).T)
    if not len(starts):
        return chains, firsts, odd
    begins = chains[0, starts]
    chains[0, starts] = 0  # the first run is in neither chain
    chains[:, starts[1:]] -= np.add.reduceat(chains, starts, axis=1)[:, :-1]  # each chain starts anew with its code
    np.cumsum(chains, axis=1, out=chains)
    chains[0, starts] = begins
    chains[1, lasts[odd]] = 0
    return chains, firsts, odd


def _without_gaps(lengths: NDArray[np.int64], firsts: NDArray[np.int64], odd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the codes whose runs all have 1 to MOST_PIXELS. The first may be empty, and where ``odd`` the last."""
    starts, lasts = firsts[:-1], firsts[1:] - 1
    wrong = (lengths - 1).view(np.uint64) >= MOST_PIXELS  # as unsigned, what is below 1 is large
    wrong[0, starts] &= lengths[0, starts] != 0
    wrong[1, lasts[odd]] = False
    good = np.ones(len(starts), bool)
    if wrong.any():
        good[_codes_of(firsts, np.flatnonzero(wrong.any(axis=0)))] = False
    return good
