"""Runs any backbone of transformers as a function of pixel values, a Swin in its fast form."""

import warnings

import torch
from torch import Tensor, nn

from m2f_batch.models.fast_layers.structure import UnknownStructureError
from m2f_batch.models.fast_layers.swin import FastSwin

SWINS = {"SwinBackbone", "MaskFormerSwinBackbone"}
# backbones that are faster on pixels in this order, and give the same values (checked by tests)
CHANNELS_LAST = {"FastSwin", "ResNetBackbone"}

# what taking over a module that is built otherwise may raise
NOT_KNOWN_HERE = (UnknownStructureError, AttributeError, KeyError, IndexError, TypeError, RuntimeError)


def feature_maps(backbone: nn.Module, pixel_values: Tensor) -> tuple[Tensor, ...]:
    """Compute the feature maps [B, C_i, H_i, W_i] of a backbone, finest first."""
    if type(backbone).__name__ in CHANNELS_LAST:
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    features = backbone(pixel_values)
    return features if isinstance(features, tuple) else tuple(features.feature_maps)


def fast_backbone(backbone: nn.Module) -> nn.Module:
    """Make a FastSwin of transformers' Swin, and return any other backbone as it is."""
    if type(backbone).__name__ not in SWINS:
        return backbone
    try:
        return FastSwin(backbone)
    except NOT_KNOWN_HERE as error:
        warnings.warn(
            f"the Swin of this transformers is not known here ({error}): it runs as it is, which is slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return backbone
