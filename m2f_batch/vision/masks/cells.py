"""Cells are the squares between four neighboring pixels of the content, in which output pixels are bilinear.

What holds at all four corners, such as an inequality between two planes, holds for every convex combination of them:
most cells are decided at their corners, and only in the others must output pixels be looked at one by one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from m2f_batch.vision.masks.frame import Steps
from m2f_batch.vision.masks.label_tiles import Tile


class Cells(NamedTuple):
    """For the columns and the rows of a tile: the content pixels before and behind, in its block, and the weight."""

    before: tuple[Tensor, Tensor]
    behind: tuple[Tensor, Tensor]
    weight: tuple[Tensor, Tensor]

    @classmethod
    def under(cls, tile: Tile, down: Steps, across: Steps) -> "Cells":
        """The cells of a tile whose block of content is [columns, rows]."""
        axes = [
            (axis, slice(span.start, span.stop), axis.reads(span).start)
            for axis, span in ((across.output, tile.columns), (down.output, tile.rows))
        ]
        before, behind = (
            tuple(getattr(axis, name)[part] - origin for axis, part, origin in axes)
            for name in ("low_index", "high_index")
        )
        return cls(before, behind, tuple(axis.weight[part] for axis, part, _ in axes))  # type: ignore[arg-type]

    def spread(self, plane: Tensor) -> Tensor:
        """Give every output pixel the value of its cell, which is that of the cell's first corner."""
        return plane.index_select(0, self.before[0]).index_select(1, self.before[1])

    def between(self, values: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Values [C, columns, rows] of the block at output pixels of the tile: [C, N]."""
        x0, x1, y0, y1 = self.before[0][x], self.behind[0][x], self.before[1][y], self.behind[1][y]
        weight_x, weight_y = self.weight[0][x], self.weight[1][y]
        upper = torch.lerp(values[:, x0, y0], values[:, x1, y0], weight_x)
        lower = torch.lerp(values[:, x0, y1], values[:, x1, y1], weight_x)
        return torch.lerp(upper, lower, weight_y)


def over_corners(choose: Callable[[Tensor, Tensor], Tensor], planes: Tensor) -> Tensor:
    """Of each cell's four corners what ``choose`` makes of two: [..., columns, rows], in the first corner's place.

    >>> over_corners(torch.maximum, torch.tensor([[1, 5], [2, 3]])).tolist()
    [[5, 5], [3, 3]]
    """
    for dim in (-1, -2):
        length = planes.shape[dim]
        if length > 1:
            pairs = choose(planes.narrow(dim, 0, length - 1), planes.narrow(dim, 1, length - 1))
            planes = torch.cat([pairs, planes.narrow(dim, length - 1, 1)], dim)
    return planes
