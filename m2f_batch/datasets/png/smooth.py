"""Finds masks resized with interpolation: between two classes lie lines of classes whose numbers lie between theirs.

Looked for along rows and columns: a run of at most THICKEST pixels between a lower value on one side and a higher one
on the other is a step. Where a direction has fewer bare jumps (of 2 values or more, between longer runs) than steps,
its borders are not those that a person drew. Membranes, curbs and other thin classes look so too, if their numbers lie
between those of their neighbors. Two steps in a row, as from 0 by 1 and 3 to 4, do not come by nature.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THICKEST = 3  # pixels of a line
_SHARE = 0.9  # of a class's pixels in one mask that are lines: its corners are none
_FEWEST_STEPS = 16  # along one direction of a mask
_EVERY, _FEWEST_LINES = 16, 32  # of the rows and columns one in so many is looked at first, but so many at least


class Lines(NamedTuple):
    """Of one mask: the values that are nothing but lines, and those of them that stand in stairs of two and more."""

    values: frozenset[int]
    in_stairs: frozenset[int]


def lines_of(values: NDArray[Any], ignored: int | None = None) -> Lines:
    """Finds the values of a mask, integer [H, W], that are nothing but lines between two others.

    ``ignored`` is a value.

    >>> sorted(lines_of(np.array([[0, 0, 0, 0, 1, 3, 4, 4, 4, 4]] * 8)).values)
    [1, 3]
    """
    thin, stairs = np.zeros(values.shape, bool), set[int]()
    for axis in (0, 1):
        lines = values if axis == 0 else values.T
        every = max(1, min(_EVERY, len(lines) // _FEWEST_LINES))
        if not _is_stepped(_Runs(lines[::every], ignored), every):
            continue
        runs = _Runs(lines, ignored)
        mine = np.repeat(runs.steps, runs.lengths).reshape(lines.shape)
        thin |= mine if axis == 0 else mine.T
        stairs |= {*np.unique(runs.values[runs.in_stairs]).tolist()}
    if not thin.any():
        return Lines(frozenset(), frozenset())
    found, totals = np.unique(values, return_counts=True)
    of_thin = dict(zip(*np.unique(values[thin], return_counts=True), strict=True))
    only = {int(value) for value, total in zip(found, totals, strict=True) if of_thin.get(value, 0) >= _SHARE * total}
    return Lines(frozenset(only), frozenset(only & stairs))


class _Runs:
    """The runs of equal values along the rows of an array [N, L]. ``steps`` are thin and between two others."""

    def __init__(self, lines: NDArray[Any], ignored: int | None) -> None:
        lines = np.ascontiguousarray(lines, np.int32)
        firsts = np.ones(lines.shape, bool)
        firsts[:, 1:] = lines[:, 1:] != lines[:, :-1]
        starts = np.flatnonzero(firsts.ravel())
        self.values = lines.ravel()[starts]
        self.lengths = np.diff(np.append(starts, lines.size))
        row = starts // lines.shape[1]
        # of each pair of neighbors, by its first one
        counts = (row[1:] == row[:-1]) & (self.values[1:] != ignored) & (self.values[:-1] != ignored)
        rises = np.where(counts, np.sign(np.diff(self.values)), 0)
        self.steps = np.zeros(len(starts), bool)
        if len(starts) > 2:
            self.steps[1:-1] = (rises[1:] == rises[:-1]) & (rises[1:] != 0) & (self.lengths[1:-1] <= THICKEST)
        self.in_stairs = self.steps & (np.append(self.steps[1:], False) | np.insert(self.steps[:-1], 0, False))
        long = self.lengths > THICKEST
        self.jumps = int((counts & (np.abs(np.diff(self.values)) > 1) & long[1:] & long[:-1]).sum())


def _is_stepped(runs: _Runs, every: int) -> bool:
    """Says whether borders are steps rather than jumps, going by one line of ``every`` so many."""
    steps = int(runs.steps.sum())
    return steps * every >= _FEWEST_STEPS and runs.jumps < steps
