"""A loaded Mask2Former of transformers becomes a module that computes the same logits faster, for inference only.

What it knows of ``transformers`` is checked when it is built: a part of unknown structure is kept as it is.
"""

import warnings
from typing import cast

from torch import Tensor, nn

from m2f_batch.models.fast_layers.backbones import NOT_KNOWN_HERE, fast_backbone, feature_maps
from m2f_batch.models.mask2former.masked_decoder import FastMaskedDecoder
from m2f_batch.models.mask2former.modules import Mask2FormerForUniversalSegmentation
from m2f_batch.models.mask2former.pixel_decoder import FastPixelDecoder
from m2f_batch.models.predictions import Predictor, QueryLogits


class FastMask2Former(Predictor):
    """Pixel values [B, 3, Hc, Wc] to class logits [B, Q, K + 1] and mask logits [B, Q, h, w]."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        model = cast(Mask2FormerForUniversalSegmentation, of)  # its parts are checked, each where it is taken over
        pixel_level = model.model.pixel_level_module
        decoder = pixel_level.decoder
        self.backbone = fast_backbone(pixel_level.encoder)
        self.pixel_decoder = FastPixelDecoder(decoder)
        self.masked_decoder = FastMaskedDecoder(model.model.transformer_module, model.class_predictor)

    def forward(self, pixel_values: Tensor) -> QueryLogits:
        """Compute class logits and mask logits."""
        return QueryLogits(*self.masked_decoder(*self.pixel_decoder(self.features(pixel_values))))

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Compute the backbone's feature maps [B, C_i, H_i, W_i], finest first."""
        return feature_maps(self.backbone, pixel_values)


def fast_mask2former(model: nn.Module) -> "FastMask2Former | None":
    """Make a FastMask2Former of the model's weights. Warns and returns None if the model is built otherwise.

    The weights are shared or replaced: drop ``model`` afterwards, and memory has not grown.
    """
    try:
        return FastMask2Former(model).eval().requires_grad_(False)
    except NOT_KNOWN_HERE as error:
        warnings.warn(
            f"this transformers builds Mask2Former in a way that is not known here ({error}): it runs as it "
            "is, which is slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
