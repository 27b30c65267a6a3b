"""A prediction is what a forward pass gives, whatever family of models computed it.

B images, Q queries, C classes, (h, w) the size of the logits. Of one image alone the tensors lack the dimension B.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn


@dataclass(frozen=True)
class QueryLogits:
    """Masks of queries and their classes, as Mask2Former, MaskFormer, OneFormer and EoMT give them.

    ``class_logits`` are [B, Q, C + 1], where the last class is "no object". ``mask_logits`` are [B, Q, h, w].
    """

    class_logits: Tensor
    mask_logits: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the prediction."""
        return self.class_logits, self.mask_logits

    def of_image(self, index: int) -> "QueryLogits":
        """Return the prediction of one image of the batch."""
        return QueryLogits(self.class_logits[index], self.mask_logits[index])

    def cpu(self) -> "QueryLogits":
        """Return the prediction on the CPU."""
        return QueryLogits(self.class_logits.cpu(), self.mask_logits.cpu())


@dataclass(frozen=True)
class SigmoidQueryLogits:
    """Masks of queries and their classes, of which none is "no object", as RF-DETR gives them.

    ``class_logits`` are [B, Q, C], of each class on its own (a sigmoid, no softmax). ``mask_logits`` are [B, Q, h, w].
    """

    class_logits: Tensor
    mask_logits: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the prediction."""
        return self.class_logits, self.mask_logits

    def of_image(self, index: int) -> "SigmoidQueryLogits":
        """Return the prediction of one image of the batch."""
        return SigmoidQueryLogits(self.class_logits[index], self.mask_logits[index])

    def cpu(self) -> "SigmoidQueryLogits":
        """Return the prediction on the CPU."""
        return SigmoidQueryLogits(self.class_logits.cpu(), self.mask_logits.cpu())


@dataclass(frozen=True)
class PixelLogits:
    """Classes of pixels, as SegFormer and UperNet give them: ``logits`` [B, C, h, w]."""

    logits: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the prediction."""
        return (self.logits,)

    def of_image(self, index: int) -> "PixelLogits":
        """Return the prediction of one image of the batch."""
        return PixelLogits(self.logits[index])

    def cpu(self) -> "PixelLogits":
        """Return the prediction on the CPU."""
        return PixelLogits(self.logits.cpu())


Prediction = QueryLogits | SigmoidQueryLogits | PixelLogits


class Predictor(nn.Module):
    """A loaded model whose forward pass gives a prediction."""

    if TYPE_CHECKING:

        def __call__(self, pixel_values: Tensor) -> Prediction:
            """Turn pixel values [B, 3, Hc, Wc] of images of equal canvas into their prediction."""
            ...
