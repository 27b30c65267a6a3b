"""Makes MobileViT and MobileViTv2 with DeepLabV3 of transformers, loads them from safetensors, and runs what is needed.

Source of the rules: apple/ml-cvnets v0.1 for the first, v0.2 and later for the second (``engine/eval_segmentation.py``,
``cvnets/modules/mobilevit_block.py``).
"""

from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import (
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    MobileViTV2Config,
    MobileViTV2ForSemanticSegmentation,
    PreTrainedModel,
)
from transformers.models.mobilevitv2.modeling_mobilevitv2 import MobileViTV2Layer

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.mobilevit.modules import AttentionLayer, MobileViT, MobileViTV2
from m2f_batch.models.predictions import PixelLogits


def load(directory: Path, config: JsonMapping, task: Task | None) -> PreTrainedModel:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    if config["model_type"] == "mobilevit":
        made = architecture_of(MobileViTConfig, config, "MobileViT")
        return model_from_tensors(MobileViTForSemanticSegmentation, made, directory)
    second = architecture_of(MobileViTV2Config, config, "MobileViTv2")
    return model_from_tensors(MobileViTV2ForSemanticSegmentation, second, directory)


def predict(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Compute the class logits of a MobileViT. ``pixel_values`` are [B, 3, Hc, Wc], multiples of the output stride."""
    whole = cast(MobileViT, model)
    features = whole.mobilevit.encoder(whole.mobilevit.conv_stem(pixel_values)).last_hidden_state
    return PixelLogits(whole.segmentation_head([features]))


def predict_second(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Compute the class logits of a MobileViTv2 for any size, which is first shrunk to multiples of its stride."""
    whole = cast(MobileViTV2, model)
    stride = whole.config.output_stride
    height, width = (max(stride, length // stride * stride) for length in pixel_values.shape[-2:])
    features = whole.mobilevitv2.conv_stem(_resized(pixel_values, height, width))
    for layer in whole.mobilevitv2.encoder.layer:
        attends = isinstance(layer, MobileViTV2Layer)
        features = _attended(cast(AttentionLayer, layer), features) if attends else layer(features)
    return PixelLogits(whole.segmentation_head([features]))


def _attended(layer: AttentionLayer, features: Tensor) -> Tensor:
    """Run one attention layer, whose input is first made up to whole patches.

    transformers does without, and so blanks the last row or column of features of an odd size.
    """
    features = layer.downsampling_layer(features)
    patch = layer.patch_height
    height, width = (-(-length // patch) * patch for length in features.shape[-2:])
    features = layer.conv_1x1(layer.conv_kxk(_resized(features, height, width)))
    patches, size = layer.unfolding(features)
    return layer.conv_projection(layer.folding(layer.layernorm(layer.transformer(patches)), size))


def _resized(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize planes [B, C, h, w], corners aligned."""
    if planes.shape[-2:] == (height, width):
        return planes
    return interpolate(planes, size=(height, width), mode="bilinear", align_corners=True)
