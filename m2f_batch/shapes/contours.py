"""Traces the outlines of a mask along the edges of its pixels. Filled by pycocotools, they are the mask again, exactly.

Pixels that touch at a corner are one part, those of the background are not: parts are 8-connected and holes
4-connected, as usual. Points are [x, y], corners of pixels: 0 is the left edge of the first one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


class Loop(NamedTuple):
    """A closed outline, its first point not repeated. Clockwise on the screen, holes counter-clockwise."""

    points: list[Point]
    is_hole: bool


def loops_of(mask: NDArray[np.bool_]) -> list[Loop]:
    """Returns the outlines of the parts and holes of a mask, bool [H, W], from the top left.

    >>> loops_of(np.array([[0, 1], [0, 1]], dtype=bool))
    [Loop(points=[(1, 0), (2, 0), (2, 2), (1, 2)], is_hole=False)]
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    y, x, turn = _corners(inside)
    across = _partners(np.lexsort((turn, x, y)))
    down = _partners(np.lexsort((_second(inside, y, x, turn), y, x)))
    return [
        Loop([(x + left, y + top) for x, y in points], is_hole)
        for points, is_hole in _walks(inside, y, x, across, down)
    ]


def _corners(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Finds the turns of outlines, by row: y, x, and 0 or 1 for the two of pixels that touch at a corner only."""
    up_left, up_right = inside[:-1, :-1], inside[:-1, 1:]
    low_left, low_right = inside[1:, :-1], inside[1:, 1:]
    is_single = up_left ^ up_right ^ low_left ^ low_right
    is_double = (up_left == low_right) & (up_right == low_left) & (up_left != up_right)
    y, x = np.nonzero(is_single | is_double)
    again = np.flatnonzero(is_double[y, x])
    turn = np.zeros(len(y) + len(again), np.int64)
    turn[len(y) :] = 1
    y, x = np.concatenate([y, y[again]]), np.concatenate([x, x[again]])
    order = np.lexsort((turn, x, y))
    return y[order], x[order], turn[order]


def _second(
    inside: NDArray[np.bool_], y: NDArray[np.int64], x: NDArray[np.int64], turn: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Says whether each turn at a corner has the right edge, not the left one. Of two, turn 0 has the upper edge.

    Turns go round the background, so that the touching pixels stay together: where these are up right and low left,
    the upper edge goes with the left one, else with the right one.
    """
    up_left = inside[y, x]
    return np.where(up_left, 1 - turn, turn)


def _partners(order: NDArray[np.int64]) -> list[int]:
    """Returns the other end of each corner's edge: in order along a line, corners are ends of edges two by two."""
    partners = np.empty(len(order), np.int64)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners.tolist()


def _walks(
    inside: NDArray[np.bool_], y: NDArray[np.int64], x: NDArray[np.int64], across: list[int], down: list[int]
) -> list[tuple[list[Point], bool]]:
    points = [*zip(x.tolist(), y.tolist(), strict=True)]
    is_outer = inside[y + 1, x + 1].tolist()  # of the first corner of a loop, the pixel within its angle
    is_seen = [False] * len(points)
    found = []
    for first in range(len(points)):
        if is_seen[first]:
            continue
        loop, at, steps = [], first, (across, down) if is_outer[first] else (down, across)
        while not is_seen[at]:
            is_seen[at] = True
            loop.append(points[at])
            at = steps[0][at]
            is_seen[at] = True
            loop.append(points[at])
            at = steps[1][at]
        found.append((loop, not is_outer[first]))
    return found


def one_path(loops: list[Loop]) -> list[Point]:
    """One closed path along all loops: from the first one's first point to each other loop and back on the same seam.

    Filled even-odd, or by winding, the seams have no area. Each loop ends with its first point.
    """
    path = [*loops[0].points]
    for loop in loops[1:]:
        x, y = path[0]
        points = loop.points
        near = min(range(len(points)), key=lambda place: (points[place][0] - x) ** 2 + (points[place][1] - y) ** 2)
        path += [path[0], *points[near:], *points[:near], points[near]]
    return path


def rings_of(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Returns a closed path [x0, y0, x1, y1, ...] for each part of a mask, bool [H, W], from the top left.

    Holes hang on the path of their part by seams without area. So the paths are a ``segmentation`` of COCO, which has
    no holes: ``pycocotools.mask.frPyObjects`` of all, merged, is the mask again, exactly.

    >>> rings_of(np.array([[0, 1], [0, 1]], dtype=bool))
    [[1.0, 0.0, 2.0, 0.0, 2.0, 2.0, 1.0, 2.0]]
    """
    from scipy.ndimage import label

    part_of, _ = label(mask, np.ones((3, 3)))
    parts: dict[int, list[Loop]] = {}
    holes: list[tuple[int, Loop]] = []
    for loop in loops_of(mask):
        x, y = loop.points[0]
        if loop.is_hole:  # the pixel over the first one of a hole is of the part around it
            holes.append((int(part_of[y - 1, x]), loop))
        else:
            parts[int(part_of[y, x])] = [loop]
    for part, hole in holes:
        parts[part].append(hole)
    return [[float(value) for point in one_path(loops) for value in point] for loops in parts.values()]
