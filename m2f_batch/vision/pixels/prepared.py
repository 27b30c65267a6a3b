"""Holds what travels from the worker that decodes an image to the replica that labels it. Imports no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2f_batch.errors import ImageError
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.cuts.view import View

Result = list[Segment] | ImageError  # of an image that was prepared


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model: its views, the content of each, uint8 [hc, wc, 3], and the image's own size."""

    contents: tuple[NDArray[np.uint8], ...]
    views: tuple[View, ...]
    output_hw: SizeHW
