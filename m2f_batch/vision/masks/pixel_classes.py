"""Finds the class of each output pixel (an argmax) for semantic masks of PixelLogits, and how sure it is there.

QueryLogits have ``semantic`` for that, and overlapping windows ``windows``. It works part by part.

C classes. A part holds a bounded number of values, so that memory does not grow with the image times the classes. It
looks only at classes that can win in it (see ``label_tiles``), or whose softmax counts there.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2f_batch.vision.masks.frame import Frame, Steps, Upsampling, content_planes, steps_of
from m2f_batch.vision.masks.label_tiles import ROUNDING, ClassLabels, Tile, bounds_of, grow_tile, label_runs

AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits of a part at the size of the output
LEFT_OUT = 1e-6  # of a pixel's softmax, all classes that are left out together


def pixel_labels(logits: Tensor, frame: Frame, upsampling: Upsampling = "bilinear") -> ClassLabels:
    """Find the highest class of ``logits`` [C, h, w] at the output's size, ties to the first. A share is a softmax."""
    steps = steps_of(logits, frame, upsampling)
    painter = PixelPainter(_Whole(logits, steps), steps, logits.device, len(logits))
    starts, labels = label_runs(*steps, logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


class Under(NamedTuple):
    """The lowest and the highest logit of each class under a tile, [C]."""

    low: Tensor
    high: Tensor


class ClassPlanes(Protocol):
    """Logits of C classes over the content."""

    def bounds(self, tile: Tile) -> Under:
        """Bounds of what is under a tile of the output."""
        ...

    def planes(self, tile: Tile, classes: Tensor) -> Tensor:
        """Logits under a tile, of some of the classes: [K, content columns, content rows]."""
        ...


class _Whole:
    """Logits [C, h, w] of one canvas."""

    def __init__(self, logits: Tensor, steps: tuple[Steps, Steps]) -> None:
        self._logits, self._steps, self._bounds = logits, steps, bounds_of(logits, *steps)

    def bounds(self, tile: Tile) -> Under:
        y, x = tile.place
        return Under(self._bounds.low[:, y, x], self._bounds.high[:, y, x])

    def planes(self, tile: Tile, classes: Tensor) -> Tensor:
        return content_planes(self._logits, *self._steps, tile.rows, tile.columns, classes)


class PixelPainter:
    """Paints one tile after the other, and sums the softmax of the winners."""

    def __init__(self, source: ClassPlanes, steps: tuple[Steps, Steps], device: torch.device, classes: int) -> None:
        self._source, self._steps, self._device = source, steps, device
        self._margin = math.log(classes / LEFT_OUT)
        self.shares = torch.zeros(classes, dtype=torch.float64, device=device)

    def paint(self, tile: Tile) -> Tensor | int:
        """Labels of a tile, int16 [columns, rows], or the one label that all of it has."""
        low, high = self._source.bounds(tile)
        classes = (high >= low.max() - self._margin).nonzero().flatten()
        if len(classes) == 1:
            self.shares[classes] += len(tile.rows) * len(tile.columns)
            return int(classes)
        low, high = low[classes], high[classes]
        slack = ROUNDING * torch.maximum(high.abs(), low.abs()).max()
        able = (high >= low.max() - slack).nonzero().flatten()
        return torch.cat([self._painted(part, classes, able) for part in self._parts(tile, len(classes))])

    def _parts(self, tile: Tile, classes: int) -> Iterator[Tile]:
        step = max(1, AT_ONCE[self._device.type] // (classes * len(tile.rows)))
        for at in range(tile.columns.start, tile.columns.stop, step):
            yield tile._replace(columns=range(at, min(at + step, tile.columns.stop)))

    def _painted(self, part: Tile, classes: Tensor, able: Tensor) -> Tensor:
        """Labels of a part, of which the classes with the places ``able`` can win."""
        planes = grow_tile(self._source.planes(part, classes), *self._steps, part)
        best, place = planes[able].max(0)
        winner = classes[able[place]]
        share = planes.sub_(best).exp_().sum(0).reciprocal_()
        self.shares.index_add_(0, winner.flatten(), share.flatten().to(self.shares.dtype))
        return winner.to(torch.int16)
