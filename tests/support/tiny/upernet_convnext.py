"""A tiny UperNet on ConvNeXt."""

from pathlib import Path

from support.tiny.upernet import STAGES, logits
from support.tiny.upernet import build as build_upernet
from transformers import ConvNextConfig

__all__ = ["build", "logits"]


def build(directory: Path) -> Path:
    """Save the model, whose weights are random, and its processor."""
    return build_upernet(
        directory, ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=STAGES)
    )
