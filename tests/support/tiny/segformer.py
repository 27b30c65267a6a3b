"""A tiny SegFormer: one layer a stage, 8 to 16 features."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = SegformerForSemanticSegmentation(config).eval()
    awaken(model)
    tell_apart(model.decode_head.classifier, lambda: logits(model, torch.randn(4, 3, 64, 96)))
    model.save_pretrained(directory)
    SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor]:
    """What transformers gives: logits [B, C, h, w]."""
    return (model(pixel_values=pixel_values).logits,)
