"""Small models and settings for tests of training."""

from typing import Any

from torch import Tensor, nn

from m2f_batch.datasets.dataset import Category
from m2f_batch.models.mask2former.training import TRAINING

CATEGORIES = (Category(3, "ball", True), Category(7, "sky", False), Category(9, "crate", True))
SMALL: dict[str, Any] = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 1,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "num_queries": 8,
    "train_num_points": 200,
}
# a small one of each kind of backbone; the first four are those that the presets are for, at their smallest
BACKBONES: dict[str, dict[str, Any]] = {
    "swin": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4},
    "resnet": {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "bottleneck",
    },
    "pvt_v2": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
    "swinv2": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4},
    "dinov3_convnext": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
}
TIMM_BACKBONES = ("timm/mobilevit_xxs", "timm/tinynet_e", "timm/mobilenetv3_small_050")


def small_config(kind: str = "resnet", **changes: Any) -> dict[str, Any]:
    """``model.config`` of a small model on a small backbone of this kind."""
    return SMALL | {"backbone_config": {"model_type": kind, **BACKBONES[kind]}} | changes


def layer_logits(model: nn.Module, pixel_values: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Class logits and mask logits of every layer, first to last."""
    classes, masks = zip(*(output.tensors for output in TRAINING.outputs(model, pixel_values)), strict=True)
    return classes, masks
