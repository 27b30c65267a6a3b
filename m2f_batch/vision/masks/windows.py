"""Finds the class of each output pixel by the mean over overlapping windows, while the predictions of these come in.

The mean is that of the logits of classes, or, where queries vote for classes, of their votes. What a model gave for a
window stays as small as it is, grows only under the tile that is being painted, and is let go of once no tile to come
lies over the window. So memory grows with the height of the image, and not with its area.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.masks.frame import Frame, Steps, content_axes, content_part, steps_from
from m2f_batch.vision.masks.label_tiles import ClassLabels, LabelRuns, Painter, Tile
from m2f_batch.vision.masks.pixel_classes import PixelPainter, Under
from m2f_batch.vision.masks.resample import Axis, axis_of
from m2f_batch.vision.masks.semantic import SemanticPainter, Votes

CPU = torch.device("cpu")
Part = tuple[range, range]  # rows and columns


class WindowLogits(NamedTuple):
    """Logits of a window, [C, h, w] of classes, or [Q, h, w] of queries with their weights P transposed, [C, Q]."""

    logits: Tensor
    weights: Tensor | None = None

    def cpu(self) -> "WindowLogits":
        """The same on the CPU."""
        return WindowLogits(self.logits.cpu(), None if self.weights is None else self.weights.cpu())


class WindowLabels:
    """Joins the windows of one image, whose views come column by column, each from top to bottom.

    ``scaled_hw`` is the size that the image was resized to before windows were taken.
    """

    def __init__(self, views: Sequence[View], scaled_hw: SizeHW, output_hw: SizeHW) -> None:
        self._frame = Frame(scaled_hw, scaled_hw, output_hw)
        self._windows = [view.window for view in views]
        # where the columns begin that are not final, once the first, the second, ... window is there
        self._final = [window.x for window in self._windows[1:]] + [scaled_hw[1]]
        self._held: list[tuple[View, WindowLogits]] = []
        self._added = 0
        self._has_left_device = False  # which had no room, so that all that follows is computed on the CPU

    def add(self, view: View, part: WindowLogits) -> None:
        """Take the next window, and paint what no other window lies over."""
        if self._added == 0:
            self._begin(part)
        self._held.append((view, part.cpu() if self._has_left_device else part))
        final = self._final[self._added]
        self._added += 1
        while (reads := self._runs.reads) is not None and reads.stop <= final:
            self._paint()
        first = self._frame.content[1] if reads is None else reads.start
        self._held[:] = [each for each in self._held if each[0].window.x + each[0].window.width > first]

    def joined(self) -> ClassLabels:
        """The winning class of each pixel, ties to the first, and the sums of their shares."""
        return ClassLabels(*self._runs.made(), self._painter.shares.cpu().numpy())

    def _begin(self, part: WindowLogits) -> None:
        self._painter = self._painter_for(part)
        self._runs = LabelRuns(*_steps(self._frame, part.logits), part.logits.device)

    def _painter_for(self, part: WindowLogits) -> Painter:
        steps, device = _steps(self._frame, part.logits), part.logits.device
        if part.weights is None:
            return PixelPainter(_MeanLogits(self._held, self._windows, steps), steps, device, len(part.logits))
        return SemanticPainter(_MeanVotes(self._held, self._windows, steps), steps, device, len(part.weights))

    def _paint(self) -> None:
        """Make the next strip, on the CPU from now on when the device has no room."""
        shares = self._painter.shares.clone()
        try:
            self._runs.paint_next(self._painter.paint, shares.device)
            return
        except torch.OutOfMemoryError:
            if shares.device == CPU:
                raise
        torch.cuda.empty_cache()
        self._has_left_device = True
        self._held[:] = [(view, part.cpu()) for view, part in self._held]
        self._painter = self._painter_for(self._held[0][1])
        self._painter.shares = shares.cpu()
        self._runs.paint_next(self._painter.paint, CPU)


def _steps(frame: Frame, like: Tensor) -> tuple[Steps, Steps]:
    """From the resized image, which the windows make up, to the output."""
    down, across = (axis_of(length, length, like.dtype, like.device) for length in frame.content)
    return steps_from((down, across), frame, like)


class _Touching(NamedTuple):
    """A window under a tile: where they overlap, within the tile's content and within the window, and its axes."""

    logits: WindowLogits
    in_tile: tuple[slice, slice]
    in_window: Part
    axes: tuple[Axis, Axis]

    def planes(self, which: Tensor | None = None) -> Tensor:
        """Logits of the overlap, [K, columns, rows]."""
        return content_part(self.logits.logits, self.axes, self.in_window, which)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest logit of the overlap, [K]."""
        (down, across), (rows, columns) = self.axes, self.in_window
        down_reads, across_reads = down.reads(rows), across.reads(columns)
        block = self.logits.logits[:, down_reads.start : down_reads.stop, across_reads.start : across_reads.stop]
        return block.amin((1, 2)), block.amax((1, 2))


class _Means:
    """Means over the windows that are held, part by part."""

    def __init__(
        self, held: Sequence[tuple[View, WindowLogits]], windows: Sequence[Window], steps: tuple[Steps, Steps]
    ) -> None:
        self._held, self._steps = held, steps
        like = steps[0].output.weight
        spans = ({(w.y, w.height) for w in windows}, {(w.x, w.width) for w in windows})
        self._counts = [
            _counted(of_axis, len(step.content.low), like) for of_axis, step in zip(spans, steps, strict=True)
        ]

    def content(self, tile: Tile) -> Part:
        """Rows and columns of the content that a tile is made of."""
        down, across = self._steps
        return down.output.reads(tile.rows), across.output.reads(tile.columns)

    def counts(self, part: Part) -> Tensor:
        """The number of windows over each pixel, [columns, rows]."""
        down, across = (counts[span.start : span.stop] for counts, span in zip(self._counts, part, strict=True))
        return across[:, None] * down

    def touching(self, part: Part) -> Iterator[_Touching]:
        """The windows over a part of the content, in their order."""
        for view, logits in self._held:
            y, x, height, width = view.window
            rows, columns = _common(part[0], y, height), _common(part[1], x, width)
            if rows and columns:
                yield _Touching(
                    logits,
                    (_moved(columns, part[1].start), _moved(rows, part[0].start)),
                    (range(rows.start - y, rows.stop - y), range(columns.start - x, columns.stop - x)),
                    content_axes(logits.logits, view.canvas_hw, view.content_hw),
                )


class _MeanLogits(_Means):
    """Logits of classes: their mean."""

    def bounds(self, tile: Tile) -> Under:
        """A mean lies between the lowest and the highest of what it is made of."""
        lows, highs = zip(*(each.bounds() for each in self.touching(self.content(tile))), strict=True)
        return Under(torch.stack(lows).amin(0), torch.stack(highs).amax(0))

    def planes(self, tile: Tile, classes: Tensor) -> Tensor:
        """The mean of some classes under a tile."""
        part = self.content(tile)
        counts = self.counts(part)
        sums = counts.new_zeros((len(classes), *counts.shape))
        for each in self.touching(part):
            sums[:, *each.in_tile] += each.planes(classes)
        return sums.div_(counts)


class _MeanVotes(_Means):
    """Votes of queries: those of all windows vote together, each with its window's share of the pixel."""

    def votes(self, tile: Tile) -> Votes:
        """The queries of all windows over a tile. Beside its window a query has no vote."""
        part = self.content(tile)
        counts = self.counts(part)
        fewest, most = counts.amin(), counts.amax()
        weights, lows, highs, planes = [], [], [], []
        for each in self.touching(part):
            assert each.logits.weights is not None
            low, high = each.bounds()
            weights.append(each.logits.weights)
            votes = counts.new_zeros((len(low), *counts.shape))
            votes[:, *each.in_tile] = each.planes().sigmoid_()
            planes.append(votes.div_(counts))
            covers = votes.shape[1:] == (len(each.in_window[1]), len(each.in_window[0]))
            lows.append(low.sigmoid() / most if covers else torch.zeros_like(low))
            highs.append(high.sigmoid() / fewest)
        together = torch.cat(weights, 1)
        return Votes(together, together.sum(0), torch.cat(lows), torch.cat(highs), torch.cat(planes))


def _counted(spans: set[tuple[int, int]], length: int, like: Tensor) -> Tensor:
    """The number of spans (start, length) over each place of an axis."""
    counts = like.new_zeros(length)
    for start, size in spans:
        counts[start : start + size] += 1
    return counts


def _common(span: range, start: int, length: int) -> range:
    return range(max(span.start, start), min(span.stop, start + length))


def _moved(span: range, origin: int) -> slice:
    return slice(span.start - origin, span.stop - origin)
