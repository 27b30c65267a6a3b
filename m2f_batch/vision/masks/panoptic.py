"""Finds which query owns each output pixel (an argmax over queries) for panoptic masks of QueryLogits, tile by tile.

K kept queries, ``w`` = score x sigmoid(M). A tile looks only at queries that can own a pixel of it (see
``label_tiles``), and an output pixel at none if the corners of its cell leave only one (see ``cells``).
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.vision.masks.cells import Cells, over_corners
from m2f_batch.vision.masks.frame import Frame, content_planes, steps_of
from m2f_batch.vision.masks.label_tiles import Tile, bounds_of, contenders, grow_tile, highest, label_runs

NOBODY = -1  # the owner's p is under the threshold
WORTH = 3  # output pixels per content pixel from which looking at cells first pays
MOSTLY = 0.25  # share of open cells in a tile from which looking at all of its pixels is cheaper


class QueryLabels(NamedTuple):
    """Runs of the owner per pixel, ``NOBODY`` where its p < threshold, in column-major order, and pixels per query.

    ``owned`` counts every owned pixel.
    """

    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    owned: NDArray[np.int64]


def panoptic_labels(mask_logits: Tensor, scores: Tensor, frame: Frame, mask_threshold: float) -> QueryLabels:
    """Give each pixel to the highest ``w``, ties to the first. ``mask_logits`` [K, h, w], ``scores`` [K], K > 0."""
    painter = _Painter(mask_logits, scores, frame, mask_threshold)
    starts, labels = label_runs(*painter.steps, mask_logits.device, painter.paint)
    return QueryLabels(starts, labels, painter.owned.cpu().numpy())


class _Painter:
    """Paints one tile after the other, and counts the pixels of each query on the device until the end."""

    def __init__(self, mask_logits: Tensor, scores: Tensor, frame: Frame, mask_threshold: float) -> None:
        self.mask_logits, self.scores, self.threshold = mask_logits, scores, mask_threshold
        self.steps = steps_of(mask_logits, frame)
        low, high = (bound.sigmoid() for bound in bounds_of(mask_logits, *self.steps))
        weighted = scores[:, None, None]
        self.may_own = contenders(low * weighted, high * weighted).cpu().numpy()
        self.sure, self.never = (low >= mask_threshold).cpu().numpy(), (high < mask_threshold).cpu().numpy()
        self.owned = torch.zeros(len(scores), dtype=torch.int64, device=mask_logits.device)

    def paint(self, tile: Tile) -> Tensor | int:
        """Labels of a tile, int16 [columns, rows], or the one label of all of it."""
        queries = self.may_own[(slice(None), *tile.place)].nonzero()[0].tolist()
        first = (queries[0], *tile.place)
        if len(queries) == 1 and (self.sure[first] or self.never[first]):
            self.owned[queries[0]] += len(tile.rows) * len(tile.columns)
            return queries[0] if self.sure[first] else NOBODY
        index = torch.tensor(queries, device=self.mask_logits.device)
        planes = content_planes(self.mask_logits, *self.steps, tile.rows, tile.columns, index)
        owner, confident = self._decided(planes, index, queries, tile)
        self.owned += torch.bincount(owner.flatten().long(), minlength=len(self.owned))
        return owner.masked_fill_(~confident, NOBODY)

    def _decided(self, planes: Tensor, index: Tensor, queries: list[int], tile: Tile) -> tuple[Tensor, Tensor]:
        """Owner int16 and whether its p >= threshold, [columns, rows], from the content's logits of k queries."""
        scores = self.scores[index, None, None]
        if len(tile.rows) * len(tile.columns) < WORTH * planes[0].numel():
            return self._owned(grow_tile(planes, *self.steps, tile), scores, queries)
        weighted = planes.sigmoid() * scores
        low, high = over_corners(torch.minimum, weighted), over_corners(torch.maximum, weighted)
        floor, owner = highest(low, queries)
        able = contenders(low, high)
        limit = self.threshold * self.scores[owner.long()]
        sure = floor >= limit
        torn = ~sure & (able & (high >= limit)).any(0)
        open_cells = (able.sum(0) > 1) | torn
        if float(open_cells.float().mean()) > MOSTLY:
            return self._owned(grow_tile(planes, *self.steps, tile), scores, queries)
        cells = Cells.under(tile, *self.steps)
        owner, confident = cells.spread(owner), cells.spread(sure)
        pixels = cells.spread(open_cells).nonzero().unbind(1)
        able_here = (able & open_cells).flatten(1).any(1).nonzero().flatten()
        if len(able_here):
            between = cells.between(planes[able_here], *pixels)
            names = [queries[i] for i in able_here.tolist()]
            owner[pixels], confident[pixels] = self._owned(between, scores[able_here, 0], names)
        return owner, confident

    def _owned(self, planes: Tensor, scores: Tensor, queries: list[int]) -> tuple[Tensor, Tensor]:
        """Owner and whether its p >= threshold from full-size logits [k, ...]."""
        best, owner = highest(planes.sigmoid_().mul_(scores), queries)
        return owner, best >= self.threshold * self.scores[owner.long()]
