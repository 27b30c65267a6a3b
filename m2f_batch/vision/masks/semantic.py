"""Finds which class wins each output pixel (an argmax) for semantic masks of QueryLogits, and how sure it is there.

PixelLogits have ``pixel_classes`` for that, and overlapping windows ``windows``. It works tile by tile.

Q queries, C classes, ``S[c]`` = sum over queries of P[q, c] x sigmoid(canvas logits of q). A tile looks only at classes
that can win in it (see ``label_tiles``), and an output pixel at none if one class wins at all corners of its cell.
``output_semantic_labels`` takes the sum of logits that have grown to the output, and looks at every pixel.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2f_batch.vision.masks.cells import Cells, over_corners
from m2f_batch.vision.masks.frame import Frame, Steps, content_planes, steps_of
from m2f_batch.vision.masks.label_tiles import ROUNDING, ClassLabels, Tile, bounds_of, grow_tile, highest, label_runs
from m2f_batch.vision.masks.resample import grow

FIRST_LOOKS = (8, 32)  # classes looked at before all that may win
AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}  # logits of queries that have grown to the output
NEGLIGIBLE = 1e-7  # share of S that queries may have and not be looked at, below float32's rounding


def semantic_labels(weights: Tensor, mask_logits: Tensor, frame: Frame) -> ClassLabels:
    """Give each pixel to the highest ``S``, ties to the first. ``weights`` P [Q, C], ``mask_logits`` [Q, h, w]."""
    steps = steps_of(mask_logits, frame)
    painter = SemanticPainter(_Whole(weights, mask_logits, steps), steps, mask_logits.device, weights.shape[1])
    starts, labels = label_runs(*steps, mask_logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


def output_semantic_labels(weights: Tensor, mask_logits: Tensor, frame: Frame) -> ClassLabels:
    """The same with ``S`` of mask logits at the output's size, not on the canvas."""
    steps = steps_of(mask_logits, frame)
    painter = _OutputPainter(weights, mask_logits, steps)
    starts, labels = label_runs(*steps, mask_logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


class Votes(NamedTuple):
    """The queries that vote in a tile: weights P transposed, [C, Q], and their sum over classes, [Q].

    ``planes`` are their votes on the content under the tile, [Q, columns, rows], and ``low`` and ``high`` bound these.
    """

    weights: Tensor
    total: Tensor
    low: Tensor
    high: Tensor
    planes: Tensor


class Voters(Protocol):
    """Queries with their votes over the content."""

    def votes(self, tile: Tile) -> Votes:
        """Give the votes under a tile of the output."""
        ...


class _Whole:
    """Queries with masks on one canvas."""

    def __init__(self, weights: Tensor, mask_logits: Tensor, steps: tuple[Steps, Steps]) -> None:
        self._weights, self._total = weights.T.contiguous(), weights.sum(1)
        self._mask_logits, self._steps = mask_logits, steps
        low, high = bounds_of(mask_logits, *steps)
        self._low, self._high = low.sigmoid(), high.sigmoid()

    def votes(self, tile: Tile) -> Votes:
        y, x = tile.place
        planes = content_planes(self._mask_logits, *self._steps, tile.rows, tile.columns).sigmoid_()
        return Votes(self._weights, self._total, self._low[:, y, x], self._high[:, y, x], planes)


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


class SemanticPainter:
    """Paints one tile after the other, and sums the shares on the device until the end."""

    def __init__(self, source: Voters, steps: tuple[Steps, Steps], device: torch.device, classes: int) -> None:
        self._source, self._steps = source, steps
        self.shares = torch.zeros(classes, dtype=torch.float64, device=device)

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        look = _looked(self._source.votes(tile))
        best, total = grow_tile(torch.stack([look.best, look.total]), *self._steps, tile)
        cells = Cells.under(tile, *self._steps)
        label = cells.spread(look.winner)
        if len(look.able):
            pixels = cells.spread(look.mixed).nonzero().unbind(1)
            names = [look.classes[i] for i in look.able.tolist()]
            best[pixels], label[pixels] = highest(cells.between(look.values[look.able], *pixels), names)
        at_corners = torch.bincount(look.winner.flatten().long()).nonzero().flatten().tolist()
        present = {*at_corners, *(look.classes[i] for i in look.able.tolist())}
        self._add_shares(present, label, torch.where(total > 0, best / total, 0))
        return label

    def _add_shares(self, classes: set[int], label: Tensor, share: Tensor) -> None:
        for category_id in sorted(classes):
            own = share if len(classes) == 1 else torch.where(label == category_id, share, 0)
            self.shares[category_id] += own.sum()


def _looked(votes: Votes) -> _Look:
    """The content under a tile: first at the likeliest classes, at more when these do not rule out the rest."""
    order, flat = _may_win(*votes[:-1]), votes.planes.flatten(1)
    for count in (*FIRST_LOOKS, len(order)):
        chosen, rest = order[:count].sort().values, order[count:]
        # no class of the rest is anywhere above one that had the highest weight of them all in every query
        others = votes.weights[rest].amax(0) if len(rest) else torch.zeros_like(votes.total)
        rows = torch.cat([votes.weights[chosen], votes.total[None], others[None]])
        planes = (rows @ flat).view(len(rows), *votes.planes.shape[1:])
        best, winner = highest(planes[:-2], chosen.tolist())
        mixed = over_corners(torch.minimum, winner) != over_corners(torch.maximum, winner)
        able = _able_between(planes, mixed)
        look = _Look(chosen.tolist(), planes[:-2], planes[-2], best, winner, mixed, able[:-2].nonzero().flatten())
        if not len(rest) or not (bool(able[-1]) or bool((planes[-1] * (1 + ROUNDING) >= best).any())):
            break
    return look


def _may_win(weights: Tensor, total: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Classes that the likeliest one may not beat, given the bounds of the queries, the likely ones first."""
    ahead = weights[(weights @ (low + high)).argmax()] - weights
    least = ahead.clamp(min=0) @ low + ahead.clamp(max=0) @ high
    able = (least <= ROUNDING * (total @ low)).nonzero().flatten()
    return able[(weights[able] @ high).argsort(descending=True)]


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


class _OutputPainter:
    """Paints with ``S`` at the output's size, part of a tile by part."""

    def __init__(self, weights: Tensor, mask_logits: Tensor, steps: tuple[Steps, Steps]) -> None:
        self.weights, self.total = weights.T.contiguous(), weights.sum(1)
        self.mask_logits, self.steps = mask_logits, steps
        low, high = bounds_of(mask_logits, *steps)
        self.low, self.high = low.sigmoid(), high.sigmoid()
        self.shares = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        (y, x), weights = tile.place, self.weights
        classes = _may_win(weights, self.total, self.low[:, y, x], self.high[:, y, x]).sort().values
        queries = self._that_count(y, x)
        planes = content_planes(self.mask_logits, *self.steps, tile.rows, tile.columns, queries)
        tall = grow(planes.transpose(1, 2).contiguous(), self.steps[0].output, tile.rows, self._first(0, tile.rows))
        tall = tall.transpose(1, 2).contiguous()
        rows = torch.cat([weights[classes], self.total[None]])[:, queries]
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
