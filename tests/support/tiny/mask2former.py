"""A tiny Mask2Former: Swin with windows of 4 patches, 32 features, 2 decoder layers, 12 queries."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, SwinConfig

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=12,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
        label_ids_to_fuse=[3, 4],
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    awaken(model)
    tell_apart(model.class_predictor, lambda: logits(model, torch.randn(4, 3, 64, 96)))
    model.save_pretrained(directory)
    Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers gives: class logits [B, Q, C + 1] and mask logits [B, Q, h, w]."""
    output = model(pixel_values=pixel_values, output_hidden_states=True)
    return output.class_queries_logits, output.masks_queries_logits
