"""A loaded OneFormer of transformers becomes a module that computes the same logits faster, for inference only.

Its backbone and its pixel decoder are those of Mask2Former. Its decoder runs as it is.
"""

from typing import cast

from torch import nn

from m2f_batch.models.fast_layers.backbones import fast_backbone
from m2f_batch.models.fast_layers.staged import Staged, StagedForward, Tensors
from m2f_batch.models.mask2former.modules import Mask2FormerPixelLevelModule
from m2f_batch.models.mask2former.pixel_decoder import FastPixelDecoder
from m2f_batch.models.oneformer.transformers_model import OneFormerForTask, predict


class FastLevels(nn.Module):
    """The pixel decoder, with all that it gives in one tuple: three maps, coarsest first, and the mask features."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = FastPixelDecoder(decoder)

    def forward(self, features: Tensors) -> Tensors:
        """Turn feature maps, finest first, into the maps and the mask features."""
        maps, mask_features = self.decoder(features)
        return *maps, mask_features


def _made(model: nn.Module) -> Staged:
    assert isinstance(model, OneFormerForTask)
    level = cast(Mask2FormerPixelLevelModule, model.model.model.pixel_level_module)  # which has the same parts
    return Staged(fast_backbone(level.encoder), FastLevels(level.decoder), model.decoder)


FORWARD = StagedForward(
    "OneFormer",
    _made,
    predict,
    lambda model: model.get_submodule("model.model.pixel_level_module"),
    lambda _, output: (*output.multi_scale_features, output.mask_features),
)
