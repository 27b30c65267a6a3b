"""A frame says how logits become output pixels: from (h, w) over the canvas and its content, axis by axis."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.vision.masks.resample import Axis, axis_of, grow

# Bilinear to the canvas, and from its content to the output: bilinear again, or the nearest pixel. "corners": logits of
# the content alone go to the output in one bilinear step with ``align_corners``.
Upsampling = Literal["bilinear", "nearest", "corners"]


class Frame(NamedTuple):
    """Canvas, the content at its top left, and the output, each (height, width) in pixels."""

    canvas: SizeHW
    content: SizeHW
    output: SizeHW


class Steps(NamedTuple):
    """One direction: logits to content (the canvas, cropped), and content to output."""

    content: Axis
    output: Axis

    def reached_by(self, logits: range) -> range:
        """The outputs that a span of logits takes part in. None when all of it is in the padding."""
        content = self.content.reached_by(logits) if len(logits) else logits
        return self.output.reached_by(content) if len(content) else content

    def logits_read(self, outputs: range) -> range:
        """The logits that a span of outputs is made of."""
        return self.content.reads(self.output.reads(outputs))


def one_step(mask_logits: Tensor, output: SizeHW) -> Frame:
    """The frame of mask logits [..., h, w] that go to the output at once, whatever the canvas was."""
    size = mask_logits.shape[-2], mask_logits.shape[-1]
    return Frame(size, size, output)


def steps_of(mask_logits: Tensor, frame: Frame, upsampling: Upsampling = "bilinear") -> tuple[Steps, Steps]:
    """The steps down and across for mask logits [..., h, w]."""
    if upsampling == "corners":
        frame = one_step(mask_logits, frame.output)
    return steps_from(content_axes(mask_logits, frame.canvas, frame.content), frame, mask_logits, upsampling)


def steps_from(
    to_content: tuple[Axis, Axis], frame: Frame, like: Tensor, upsampling: Upsampling = "bilinear"
) -> tuple[Steps, Steps]:
    """The steps down and across for a content that is made in a way of its own, where ``like`` lies."""
    down, across = (
        Steps(axis, axis_of(frame.content[i], frame.output[i], like.dtype, like.device, upsampling))
        for i, axis in enumerate(to_content)
    )
    return down, across


def content_axes(mask_logits: Tensor, canvas: SizeHW, content: SizeHW) -> tuple[Axis, Axis]:
    """From mask logits [..., h, w] to the content of a canvas, down and across."""
    down, across = (
        axis_of(mask_logits.shape[-2 + i], canvas[i], mask_logits.dtype, mask_logits.device).cut(content[i])
        for i in (0, 1)
    )
    return down, across


def content_planes(
    mask_logits: Tensor, down: Steps, across: Steps, rows: range, columns: range, queries: Tensor | None = None
) -> Tensor:
    """The content under a part of the output, by columns: [K, h, w] to [K, content columns, content rows].

    Of all queries, or of those with the places ``queries``.
    """
    part = down.output.reads(rows), across.output.reads(columns)
    return content_part(mask_logits, (down.content, across.content), part, queries)


def content_part(
    mask_logits: Tensor, axes: tuple[Axis, Axis], part: tuple[range, range], queries: Tensor | None = None
) -> Tensor:
    """Rows and columns of the content, by columns: [K, h, w] to [K, content columns, content rows]."""
    (down, across), (rows, columns) = axes, part
    logit_rows, logit_columns = down.reads(rows), across.reads(columns)
    block = mask_logits[:, logit_rows.start : logit_rows.stop, logit_columns.start : logit_columns.stop]
    block = block if queries is None else block[queries]
    tall = grow(block, down, rows, logit_rows.start)
    return grow(tall.transpose(1, 2).contiguous(), across, columns, logit_columns.start)


def spans_of(marks: Tensor) -> list[range]:
    """The span from the first to the last mark of every row of a bool tensor [K, n]. It may be empty."""
    if not marks.shape[0]:
        return []
    places = torch.arange(1, marks.shape[1] + 1, device=marks.device)
    last = torch.where(marks, places, 0).amax(1)
    first = torch.where(marks, places, marks.shape[1] + 1).amin(1) - 1
    return [range(a, b) if b else range(0) for a, b in torch.stack([first, last], 1).tolist()]
