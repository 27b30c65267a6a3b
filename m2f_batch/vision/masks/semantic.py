"""Finds which class wins each output pixel (an argmax) for semantic masks of QueryLogits, and how sure it is there.

PixelLogits have ``pixel_classes`` for that. It works tile by tile.

Q queries, C classes, ``S[c]`` = sum over queries of P[q, c] x sigmoid(canvas logits of q). A tile looks only at classes
that can win in it (see ``label_tiles``), and an output pixel at none if one class wins at all corners of its cell.
``output_semantic_labels`` takes the sum of logits that have grown to the output, and looks at every pixel.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from m2f_batch.vision.masks.cells import Cells, over_corners
from m2f_batch.vision.masks.frame import Frame, content_planes, steps_of
from m2f_batch.vision.masks.label_tiles import ROUNDING, ClassLabels, Tile, bounds_of, grow_tile, highest, label_runs
from m2f_batch.vision.masks.resample import grow

FIRST_LOOKS = (8, 32)  # classes looked at before all that may win
AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}  # logits of queries that have grown to the output
NEGLIGIBLE = 1e-7  # share of S that queries may have and not be looked at, below float32's rounding


def semantic_labels(weights: Tensor, mask_logits: Tensor, frame: Frame) -> ClassLabels:
    """Give each pixel to the highest ``S``, ties to the first. ``weights`` P [Q, C], ``mask_logits`` [Q, h, w]."""
    painter = _Painter(weights, mask_logits, frame)
    starts, labels = label_runs(*painter.steps, mask_logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


def output_semantic_labels(weights: Tensor, mask_logits: Tensor, frame: Frame) -> ClassLabels:
    """The same with ``S`` of mask logits at the output's size, not on the canvas."""
    painter = _OutputPainter(weights, mask_logits, frame)
    starts, labels = label_runs(*painter.steps, mask_logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


class _Look(NamedTuple):
    """Classes k and their ``S`` on the content under a tile, [k, columns, rows], with the total over all classes.

    ``mixed`` are the cells whose corners have different winners, ``able`` the places in k of who may win in them.
    """

    classes: list[int]
    values: Tensor
    total: Tensor
    best: Tensor
    winner: Tensor
    mixed: Tensor
    able: Tensor


class _Bounded:
    """What both painters know: weights P [C, Q], the sigmoids' bounds [Q, tiles down, tiles across], shares [C]."""

    def __init__(self, weights: Tensor, mask_logits: Tensor, frame: Frame) -> None:
        self.mask_logits = mask_logits
        self.steps = steps_of(mask_logits, frame)
        self.weights = weights.T.contiguous()
        self.total = weights.sum(1)
        low, high = bounds_of(mask_logits, *self.steps)
        self.low, self.high = low.sigmoid(), high.sigmoid()
        self.shares = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)

    def _may_win(self, y: int, x: int) -> Tensor:
        """Classes that the likeliest one may not beat, given the bounds of the queries, the likely ones first."""
        low, high = self.low[:, y, x], self.high[:, y, x]
        ahead = self.weights[(self.weights @ (low + high)).argmax()] - self.weights
        least = ahead.clamp(min=0) @ low + ahead.clamp(max=0) @ high
        able = (least <= ROUNDING * (self.total @ low)).nonzero().flatten()
        return able[(self.weights[able] @ high).argsort(descending=True)]

    def _add_shares(self, classes: set[int], label: Tensor, share: Tensor) -> None:
        for category_id in sorted(classes):
            own = share if len(classes) == 1 else torch.where(label == category_id, share, 0)
            self.shares[category_id] += own.sum()


class _OutputPainter(_Bounded):
    """Paints with ``S`` at the output's size, part of a tile by part."""

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        classes, queries = self._may_win(*tile.place).sort().values, self._that_count(*tile.place)
        planes = content_planes(self.mask_logits, *self.steps, tile.rows, tile.columns, queries)
        tall = grow(planes.transpose(1, 2).contiguous(), self.steps[0].output, tile.rows, self._first(0, tile.rows))
        tall = tall.transpose(1, 2).contiguous()
        rows = torch.cat([self.weights[classes], self.total[None]])[:, queries]
        step = max(1, AT_ONCE[tall.device.type] // max(1, len(queries) * len(tile.rows)))
        parts = [
            self._painted(tall, rows, classes, range(at, min(at + step, tile.columns.stop)), tile.columns)
            for at in range(tile.columns.start, tile.columns.stop, step)
        ]
        return torch.cat(parts)

    def _painted(self, tall: Tensor, rows: Tensor, classes: Tensor, columns: range, of_tile: range) -> Tensor:
        """Labels of some columns from logits [Q, content columns, rows] of the tile."""
        votes = grow(tall, self.steps[1].output, columns, self._first(1, of_tile)).sigmoid_()
        sums = (rows @ votes.flatten(1)).view(len(rows), *votes.shape[1:])
        best, place = sums[:-1].max(0)  # the first of equal ones
        label = classes[place]
        share = torch.where(sums[-1] > 0, best / sums[-1], 0)
        self.shares.index_add_(0, label.flatten(), share.flatten().to(self.shares.dtype))
        return label.to(torch.int16)

    def _first(self, axis: int, span: range) -> int:
        """The first row (axis 0) or column of the content that a span of the output is made of."""
        return self.steps[axis].output.reads(span).start

    def _that_count(self, y: int, x: int) -> Tensor:
        """Queries that are not, all of the others together, below rounding wherever in the tile one looks."""
        most, order = torch.sort(self.total * self.high[:, y, x])
        skipped = int((most.cumsum(0) <= NEGLIGIBLE * (self.total @ self.low[:, y, x])).sum())
        return order[min(skipped, len(order) - 1) :].sort().values


class _Painter(_Bounded):
    """Paints one tile after the other, and sums the shares on the device until the end."""

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        look = self._look(tile)
        best, total = grow_tile(torch.stack([look.best, look.total]), *self.steps, tile)
        cells = Cells.under(tile, *self.steps)
        label = cells.spread(look.winner)
        if len(look.able):
            pixels = cells.spread(look.mixed).nonzero().unbind(1)
            names = [look.classes[i] for i in look.able.tolist()]
            best[pixels], label[pixels] = highest(cells.between(look.values[look.able], *pixels), names)
        at_corners = torch.bincount(look.winner.flatten().long()).nonzero().flatten().tolist()
        present = {*at_corners, *(look.classes[i] for i in look.able.tolist())}
        self._add_shares(present, label, torch.where(total > 0, best / total, 0))
        return label

    def _look(self, tile: Tile) -> _Look:
        """The content under a tile: first at the likeliest classes, at more when these do not rule out the rest."""
        queries = content_planes(self.mask_logits, *self.steps, tile.rows, tile.columns).sigmoid_()
        order = self._may_win(*tile.place)
        for count in (*FIRST_LOOKS, len(order)):
            chosen, rest = order[:count].sort().values, order[count:]
            # no class of the rest is anywhere above one that had the highest weight of them all in every query
            others = self.weights[rest].amax(0) if len(rest) else torch.zeros_like(self.total)
            rows = torch.cat([self.weights[chosen], self.total[None], others[None]])
            planes = (rows @ queries.flatten(1)).view(len(rows), *queries.shape[1:])
            best, winner = highest(planes[:-2], chosen.tolist())
            mixed = over_corners(torch.minimum, winner) != over_corners(torch.maximum, winner)
            able = _able_between(planes, mixed)
            look = _Look(chosen.tolist(), planes[:-2], planes[-2], best, winner, mixed, able[:-2].nonzero().flatten())
            if not len(rest) or not (bool(able[-1]) or bool((planes[-1] * (1 + ROUNDING) >= best).any())):
                break
        return look


def _able_between(planes: Tensor, mixed: Tensor) -> Tensor:
    """Find the planes, the classes and all others as one, that can be the highest in a mixed cell: bool [C + 2].

    A class may win within a cell and at none of its corners. The plane before the last is no class.
    """
    x, y = mixed.nonzero().unbind(1)
    behind_x, behind_y = (x + 1).clamp(max=mixed.shape[0] - 1), (y + 1).clamp(max=mixed.shape[1] - 1)
    at_corners = torch.stack([planes[:, i, j] for i in (x, behind_x) for j in (y, behind_y)])
    low, high = at_corners.amin(0), at_corners.amax(0)
    floor = low[:-2].amax(0)
    return (high * (1 + ROUNDING) >= floor).any(1)
