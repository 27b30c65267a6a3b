"""A tiny EoMT: 3 layers, the last 2 with queries, 64 x 64 pixels, attention plain as in published weights."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}
EDGE = 64
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": EDGE,
    "patch_size": 8,
    "num_blocks": 2,
    "num_upscale_blocks": 1,
    "num_queries": 12,
    "num_register_tokens": 2,
    "id2label": LABELS,
    "label2id": {name: i for i, name in LABELS.items()},
}


def build(directory: Path, *, probabilities: tuple[float, float] = (0.0, 0.0), **config: Any) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    return save(EomtForUniversalSegmentation(EomtConfig(**SMALL, mlp_ratio=2, **config)), directory, probabilities)


def save(model: Any, directory: Path, probabilities: tuple[float, float]) -> Path:
    """Give a model weights that find something, and save it."""
    model.eval()
    awaken(model)
    model.attn_mask_probs.zero_()
    tell_apart(model.class_predictor, lambda: logits(model, torch.randn(4, 3, EDGE, EDGE)))
    model.attn_mask_probs.copy_(torch.tensor(probabilities))
    model.config.label_ids_to_fuse = [3, 4]
    model.save_pretrained(directory)
    EomtImageProcessor(size={"shortest_edge": EDGE, "longest_edge": EDGE}, do_pad=True).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """What transformers gives: class logits [B, Q, C + 1] and mask logits [B, Q, h, w]."""
    output = model(pixel_values=pixel_values)
    return output.class_queries_logits, output.masks_queries_logits
