"""Defines the view, a window of an image with its canvas, and the cut, which makes views of an image and joins them.

An image is resized once to the size that its cut wants, and windows are taken from that. Each window becomes the
content at the top left of a canvas, and the model sees one canvas at a time. One file of this folder is one cut.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.records import Segment

if TYPE_CHECKING:  # a run's settings name their cut, and are read without torch
    from m2f_batch.models.predictions import Prediction

Part = TypeVar("Part", contravariant=True)
Joined = TypeVar("Joined", covariant=True)


class Window(NamedTuple):
    """A part of an image, in pixels: its first row and column, and its size."""

    y: int
    x: int
    height: int
    width: int


class View(NamedTuple):
    """A window, the size of the content that it is resized to, and the canvas that holds the content."""

    window: Window
    content_hw: SizeHW
    canvas_hw: SizeHW


class Join(Protocol[Part, Joined]):
    """Takes the parts of one image one by one, and joins them. It may let go of a part as soon as it can."""

    def add(self, view: View, part: Part) -> None:
        """Take the part of the next view, in the order of the cut's views."""

    def joined(self) -> Joined:
        """Give what the parts are together, once the last one was added."""
        ...


class _Cut(Protocol):
    """Tells which views an image has. It travels to every node, so it is small and can be pickled."""

    def scaled_hw(self, plan: PreprocessPlan, output_hw: SizeHW) -> SizeHW:
        """Size that an image of (H, W) pixels is resized to before windows are taken. (H, W) leaves it alone."""
        ...

    def views(self, plan: PreprocessPlan, output_hw: SizeHW) -> tuple[View, ...]:
        """Views of an image of (H, W) pixels, at least one. Raises ImageError where nothing would be left of it."""
        ...

    def facts(self) -> Mapping[str, object]:
        """Give what of this cut decides a label, as JSON has it. A run's fingerprint covers it."""
        ...


class PredictionCut(_Cut, Protocol):
    """Joins what the model gives for the views into one prediction, which is then made into segments."""

    joins: ClassVar[Literal["predictions"]]

    def join(self, plan: PreprocessPlan, output_hw: SizeHW) -> "Join[Prediction, tuple[Prediction, View]]":
        """Join the predictions of an image. The view says where their joined prediction lies."""
        ...


class SegmentCut(_Cut, Protocol):
    """Makes the prediction of each view into segments of its window, and joins these.

    Windows are parts of the image itself: ``scaled_hw`` is its own size.
    """

    joins: ClassVar[Literal["segments"]]

    def join(self, plan: PreprocessPlan, output_hw: SizeHW) -> Join[list[Segment], list[Segment]]:
        """Join the segments of an image, whose masks are as large as their windows."""
        ...


class ClassCut(_Cut, Protocol):
    """Gives each pixel the class that is the highest in the mean over the windows that lie over it.

    Only a semantic task has such a mean, that of class logits, or of what queries vote (``vision/masks/windows``).
    Views come column by column, each column from top to bottom, and windows are as large as their content.
    """

    joins: ClassVar[Literal["classes"]]


Cut = PredictionCut | SegmentCut | ClassCut
