"""A tiny EoMT-DINOv3, of the sizes of the tiny EoMT."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.eomt import SMALL, logits, save
from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

__all__ = ["build", "logits"]


def build(directory: Path, *, probabilities: tuple[float, float] = (0.0, 0.0), **config: Any) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    model = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**SMALL, intermediate_size=64, **config))
    return save(model, directory, probabilities)
