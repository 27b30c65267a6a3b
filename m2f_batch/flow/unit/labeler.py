"""Says what a stage of a unit asks of a model. A ``Segmenter`` does it, and what stands in for one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from m2f_batch.vision.pixels.prepared import Prepared, Result


class Labeler(Protocol):
    """Labels prepared images."""

    @property
    def checked(self) -> object | None:
        """How the forward pass computes, in words by ``str``. None without a forward pass of its own."""

    def label(self, images: Sequence[Prepared]) -> Sequence[Result]:
        """Segments of each image, or why there are none, in their order."""
        ...

    def take_seconds(self) -> Mapping[str, float]:
        """Seconds spent by stage since the last call."""
        ...
