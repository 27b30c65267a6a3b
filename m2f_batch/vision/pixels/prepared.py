"""Holds what travels from the worker that decodes an image to the replica that labels it. Imports no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2f_batch.errors import ImageError
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.cuts.view import View

Result = list[Segment] | ImageError  # of an image that was prepared
Content = NDArray[np.uint8 | np.float32]  # [hc, wc, 3]


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model: its views, the content of each, and the image's own size.

    Contents are uint8, or float32 from 0 to 255 where the plan's resizing does not round.
    """

    contents: tuple[Content, ...]
    views: tuple[View, ...]
    output_hw: SizeHW
