"""Defines the protocol ``Labeler``, by which the stages of a unit label images. ``Segmenter`` implements it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from m2f_batch.records import Segment
from m2f_batch.vision.pixels.prepared import Prepared, Result


class Labeled(NamedTuple):
    """The segments of an image with rows of sidecars: tables by name, without the column ``image_id``."""

    segments: list[Segment]
    sidecars: Mapping[str, pa.Table]


Outcome = Result | Labeled  # of one image


class Labeler(Protocol):
    """Labels prepared images."""

    @property
    def checked(self) -> object | None:
        """The way the forward pass computes, in words by ``str``. None without a forward pass of its own."""

    def label(self, images: Sequence[Prepared]) -> Sequence[Outcome]:
        """Segments of each image, or why there are none, in their order."""
        ...

    def take_seconds(self) -> Mapping[str, float]:
        """Seconds spent by stage since the last call."""
        ...
