"""Finds the class of each output pixel (an argmax) for semantic masks of PixelLogits, and how sure it is there.

QueryLogits have ``semantic`` for that. It works part by part.

C classes. A part holds a bounded number of values, so that memory does not grow with the image times the classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from m2f_batch.vision.masks.frame import Frame, Upsampling, content_planes, steps_of
from m2f_batch.vision.masks.label_tiles import ClassLabels, Tile, grow_tile, label_runs

AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits of a part at the size of the output


def pixel_labels(logits: Tensor, frame: Frame, upsampling: Upsampling = "bilinear") -> ClassLabels:
    """Find the highest class of ``logits`` [C, h, w] at the output's size, ties to the first. A share is a softmax."""
    painter = _Painter(logits, frame, upsampling)
    starts, labels = label_runs(*painter.steps, logits.device, painter.paint)
    return ClassLabels(starts, labels, painter.shares.cpu().numpy())


class _Painter:
    """Paints one tile after the other, and sums the softmax of the winners on the device until the end."""

    def __init__(self, logits: Tensor, frame: Frame, upsampling: Upsampling) -> None:
        self.logits, self.steps = logits, steps_of(logits, frame, upsampling)
        self.shares = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)

    def paint(self, tile: Tile) -> Tensor:
        """Labels of a tile, int16 [columns, rows]."""
        return torch.cat([self._painted(part) for part in self._parts(tile)])

    def _parts(self, tile: Tile) -> Iterator[Tile]:
        step = max(1, AT_ONCE[self.logits.device.type] // (len(self.logits) * len(tile.rows)))
        for at in range(tile.columns.start, tile.columns.stop, step):
            yield tile._replace(columns=range(at, min(at + step, tile.columns.stop)))

    def _painted(self, part: Tile) -> Tensor:
        planes = grow_tile(content_planes(self.logits, *self.steps, part.rows, part.columns), *self.steps, part)
        best = planes.amax(0)
        winner = planes.argmax(0)
        share = planes.sub_(best).exp_().sum(0).reciprocal_()
        self.shares.index_add_(0, winner.flatten(), share.flatten().to(self.shares.dtype))
        return winner.to(torch.int16)
