"""A tiny MaskFormer: Swin with windows of 4 patches, 32 features, 2 decoder layers, 12 queries."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    PretrainedConfig,
    SwinConfig,
)

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def swin() -> SwinConfig:
    """Four stages, the second of two blocks."""
    size = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    return SwinConfig(**size, out_features=STAGES)


def model_of(backbone: PretrainedConfig, names: dict[int, str] = LABELS) -> MaskFormerForInstanceSegmentation:
    """A model whose weights are random."""
    torch.manual_seed(0)
    decoder = DetrConfig(
        d_model=32,
        num_queries=12,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
    )
    config = MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        label_ids_to_fuse=[3, 4],
    )
    model = MaskFormerForInstanceSegmentation(config).eval()
    awaken(model)
    seen = torch.randn(1, 3, 64, 96)  # of more images the queries of one would agree
    tell_apart(model.mask_embedder.get_submodule("2.0"), lambda: logits(model, seen), spread=1.0)
    tell_apart(model.class_predictor, lambda: logits(model, seen))
    return model


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    model_of(swin()).save_pretrained(directory)
    MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers gives: class logits [B, Q, C + 1] and mask logits [B, Q, h, w]."""
    output = model(pixel_values=pixel_values)
    return output.class_queries_logits, output.masks_queries_logits
