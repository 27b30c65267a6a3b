"""Slides windows over the resized image, and takes the mean of what the model gives where they overlap.

The windows are placed as mmsegmentation's ``slide_inference`` places them, with a stride, or as EoMT's
``window_imgs_semantic``, without one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.vision.cuts.view import View, Window

VERSION = 1  # of the way windows are placed and averaged: bump it when labels change


@dataclass(frozen=True)
class Windows:
    """Square windows of ``size`` pixels. A side that is not longer than that is not cut.

    With a ``stride`` they begin at its multiples, and the last one is moved back to the border. Without one there are
    as few as cover the side, and they lie evenly.
    """

    size: int
    stride: int | None
    joins: ClassVar[Literal["classes"]] = "classes"

    def scaled_hw(self, plan: PreprocessPlan, output_hw: SizeHW) -> SizeHW:
        """The size of the whole image on its canvas, from which windows are taken."""
        return plan.content_size(output_hw)

    def views(self, plan: PreprocessPlan, output_hw: SizeHW) -> tuple[View, ...]:
        """The windows, column by column. One alone is on the canvas that the whole image has."""
        scaled = self.scaled_hw(plan, output_hw)
        size = min(self.size, scaled[0]), min(self.size, scaled[1])
        if size == scaled:
            return (View(Window(0, 0, *scaled), scaled, plan.canvas_size(output_hw)),)
        canvas = plan.canvas_of(size)
        downs, acrosses = (starts_of(length, self.size, self.stride) for length in scaled)
        return tuple(View(Window(y, x, *size), size, canvas) for x in acrosses for y in downs)

    def facts(self) -> Mapping[str, object]:
        """The placement of windows."""
        return {"windows": {"size": self.size, "stride": self.stride, "version": VERSION}}

    def describe(self) -> str:
        """One phrase for the plan printed before a run."""
        placed = "as few as cover it, lying evenly" if self.stride is None else f"stride {self.stride}"
        return f"windows of {self.size}x{self.size} of the resized image, {placed}"


def starts_of(length: int, size: int, stride: int | None) -> tuple[int, ...]:
    """Starts of the windows of one side.

    >>> starts_of(1000, 640, 426), starts_of(1000, 640, None), starts_of(1300, 640, None), starts_of(500, 640, 426)
    ((0, 360), (0, 360), (0, 330, 660), (0,))
    """
    last = max(length - size, 0)
    if stride is not None:
        return tuple(min(at * stride, last) for at in range(math.ceil(last / stride) + 1))
    count = math.ceil(length / size)
    overlap = (count * size - length) / (count - 1) if count > 1 else 0.0
    # in the original, rounding can leave the last pixel uncovered
    return *(int(at * (size - overlap)) for at in range(count - 1)), last
