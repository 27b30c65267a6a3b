"""Sees the whole image at once: the cut of one window."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.vision.cuts.view import View, Window

if TYPE_CHECKING:
    from m2f_batch.models.predictions import Prediction


@dataclass(frozen=True)
class Whole:
    """One view: the image, resized as the plan says."""

    joins: ClassVar[Literal["predictions"]] = "predictions"

    def scaled_hw(self, plan: PreprocessPlan, output_hw: SizeHW) -> SizeHW:
        """Leave the image alone: its one window is resized."""
        return output_hw

    def views(self, plan: PreprocessPlan, output_hw: SizeHW) -> tuple[View, ...]:
        """The image itself."""
        return (View(Window(0, 0, *output_hw), plan.content_size(output_hw), plan.canvas_size(output_hw)),)

    def facts(self) -> Mapping[str, object]:
        """Nothing: labels are those of the plan."""
        return {}

    def join(self, plan: PreprocessPlan, output_hw: SizeHW) -> "_Only":
        """Take the one prediction as it is."""
        return _Only()


class _Only:
    """Holds one prediction and its view."""

    def add(self, view: View, part: "Prediction") -> None:
        self._only = part, view

    def joined(self) -> "tuple[Prediction, View]":
        return self._only


WHOLE = Whole()
