"""A tiny RF-DETR-Seg: 4 layers of 32 features, 2 x 2 windows, 2 decoder layers, 12 queries, on 96 x 96 pixels."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import RfDetrConfig, RfDetrForInstanceSegmentation, RfDetrImageProcessor

LABELS = {0: "N/A", 1: "ball", 2: "box", 3: "star", 4: "N/A"}
SIDE = 96


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 12,
        "num_windows": 2,
        "out_indices": [1, 2, 3, 4],
    }
    config = RfDetrConfig(
        backbone_config=backbone,
        d_model=32,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=4,
        decoder_n_points=2,
        decoder_ffn_dim=64,
        intermediate_size=64,
        num_queries=12,
        group_detr=2,
        c2f_num_blocks=1,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = RfDetrForInstanceSegmentation(config).eval()
    awaken(model, gain=1.0)  # more, and sampling positions amplify rounding
    tell_apart(model.model.class_embed, lambda: logits(model, torch.randn(4, 3, SIDE, SIDE)))
    model.save_pretrained(directory)
    RfDetrImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers gives: class logits [B, Q, C] and mask logits [B, Q, h, w]."""
    output = model(pixel_values=pixel_values)
    return output.logits, output.pred_masks
