"""A tiny BEiT: four layers of 16 features, patches of 8 pixels, a position bias for 64x64 pixels."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import BeitConfig, BeitForSemanticSegmentation, BeitImageProcessor

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    config = BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=8,
        use_relative_position_bias=True,
        auxiliary_channels=8,
        out_indices=[1, 2, 3, 4],
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = BeitForSemanticSegmentation(config).eval()
    awaken(model)
    tell_apart(model.decode_head.classifier, lambda: logits(model, torch.randn(4, 3, 64, 64)))
    model.save_pretrained(directory)
    BeitImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor]:
    """What transformers gives: logits [B, C, h, w]."""
    return (model(pixel_values=pixel_values).logits,)
