"""A tiny MobileViT with DeepLabV3: 8 to 32 features, one square of 64 pixels, output stride 16."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import MobileViTConfig, MobileViTForSemanticSegmentation, MobileViTImageProcessor

LABELS = {0: "background", 1: "ball", 2: "box", 3: "star"}


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    config = MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32],
        num_attention_heads=2,
        output_stride=16,
        aspp_out_channels=16,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = MobileViTForSemanticSegmentation(config).eval()
    awaken(model)
    tell_apart(model.segmentation_head.classifier.convolution, lambda: logits(model, torch.rand(4, 3, 64, 64)))
    model.save_pretrained(directory)
    MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}).save_pretrained(
        directory
    )
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor]:
    """What transformers gives: class logits [B, C, h, w]."""
    return (model(pixel_values=pixel_values).logits,)
