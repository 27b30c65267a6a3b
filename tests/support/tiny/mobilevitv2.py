"""A tiny MobileViTv2 with DeepLabV3: a short side of 64 pixels, output stride 16."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import MobileViTImageProcessor, MobileViTV2Config, MobileViTV2ForSemanticSegmentation

LABELS = {0: "background", 1: "ball", 2: "box", 3: "star"}


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    config = MobileViTV2Config(
        image_size=64,
        width_multiplier=0.25,
        n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[64, 64, 64],
        output_stride=16,
        aspp_out_channels=16,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = MobileViTV2ForSemanticSegmentation(config).eval()
    awaken(model)
    tell_apart(model.segmentation_head.classifier.convolution, lambda: logits(model, torch.rand(4, 3, 64, 96)))
    model.save_pretrained(directory)
    MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}).save_pretrained(
        directory
    )
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor]:
    """What transformers gives for multiples of 32: class logits [B, C, h, w]."""
    height, width = (length // 16 * 16 for length in pixel_values.shape[-2:])
    assert height % 32 == width % 32 == 0, "of other sizes transformers blanks a row or column of features"
    values = interpolate(pixel_values, size=(height, width), mode="bilinear", align_corners=True)
    return (model(pixel_values=values).logits,)
