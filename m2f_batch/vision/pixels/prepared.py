"""What travels from the worker that decodes an image to the replica that labels it. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2f_batch.models.preprocess_plan import SizeHW


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model: ``content`` uint8 [hc, wc, 3], and the sizes that undo the resize."""

    content: NDArray[np.uint8]
    canvas_hw: SizeHW
    output_hw: SizeHW

    @property
    def content_hw(self) -> SizeHW:
        """(hc, wc) in pixels."""
        return self.content.shape[0], self.content.shape[1]
