"""Semantic: which class wins each output pixel, and how sure it is there, tile by tile.

Q queries, C classes, ``S[c]`` = sum over queries of P[q, c] x sigmoid(canvas logits of q). A tile looks only at classes
that can win in it (see ``tiles``), and an output pixel at none if one class wins at all corners of its cell.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.vision.cells import Cells, over_corners
from m2f_batch.vision.frame import Frame, content_planes, steps_of
from m2f_batch.vision.tiles import ROUNDING, Tile, bounds_of, contenders, grow_tile, highest, label_runs


class Winners(NamedTuple):
    """Runs of the winning class per pixel, in column-major order; and the sum of its share of ``S`` per class."""

    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    shares: NDArray[np.float64]


def find_winners(weights: Tensor, mask_logits: Tensor, frame: Frame) -> Winners:
    """Winners by the highest ``S``, ties to the first; ``weights`` P [Q, C], ``mask_logits`` [Q, h, w]."""
    painter = _Painter(weights, mask_logits, frame)
    starts, labels = label_runs(*painter.steps, mask_logits.device, painter.paint)
    return Winners(starts, labels, painter.shares.cpu().numpy())


class _Painter:
    """The winners of one tile after the other; sums the shares, on the device until the end."""

    def __init__(self, weights: Tensor, mask_logits: Tensor, frame: Frame) -> None:
        self.mask_logits = mask_logits
        self.steps = steps_of(mask_logits, frame)
        self.weights = weights.T.contiguous()
        self.total = weights.sum(1)
        low, high = bounds_of(mask_logits, *self.steps)
        self.low, self.high = low.sigmoid(), high.sigmoid()
        self.shares = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        classes = self._may_win(*tile.place)
        queries = content_planes(self.mask_logits, *self.steps, tile.rows, tile.columns).sigmoid_()
        rows = torch.cat([self.weights[classes], self.total[None]])
        values = (rows @ queries.flatten(1)).view(len(rows), *queries.shape[1:])
        values, total = values[:-1], values[-1]
        best, winner = highest(values, classes.tolist())
        best, total = grow_tile(torch.stack([best, total]), *self.steps, tile)
        cells = Cells.under(tile, *self.steps, total.device)
        label = cells.spread(winner)
        present = set(torch.bincount(winner.flatten().long()).nonzero().flatten().tolist())
        if len(present) > 1:
            mixed = over_corners(torch.minimum, winner) != over_corners(torch.maximum, winner)
            pixels = cells.spread(mixed).nonzero().unbind(1)
            able = _able_between(values, mixed)
            names = classes[able].tolist()
            best[pixels], label[pixels] = highest(cells.between(values[able], *pixels), names)
            present |= set(names)
        self._add_shares(present, label, torch.where(total > 0, best / total, 0))
        return label

    def _may_win(self, y: int, x: int) -> Tensor:
        """Classes that the likeliest one does not beat for certain, whatever the queries are within their bounds."""
        low, high = self.low[:, y, x], self.high[:, y, x]
        ahead = self.weights[(self.weights @ (low + high)).argmax()] - self.weights
        least = ahead.clamp(min=0) @ low + ahead.clamp(max=0) @ high
        return (least <= ROUNDING * (self.total @ low)).nonzero().flatten()

    def _add_shares(self, classes: set[int], label: Tensor, share: Tensor) -> None:
        for category_id in sorted(classes):
            own = share if len(classes) == 1 else torch.where(label == category_id, share, 0)
            self.shares[category_id] += own.sum()


def _able_between(values: Tensor, mixed: Tensor) -> Tensor:
    """Which of the C planes can be the highest in one of the cells: some win in a cell, but at none of its corners."""
    low, high = over_corners(torch.minimum, values)[:, mixed], over_corners(torch.maximum, values)[:, mixed]
    return contenders(low, high).any(1).nonzero().flatten()
