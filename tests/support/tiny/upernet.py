"""A tiny UperNet on Swin with windows of 4 patches, and on any other backbone."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor, nn
from transformers import (
    PretrainedConfig,
    SegformerImageProcessor,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def build(directory: Path, backbone: PretrainedConfig | None = None) -> Path:
    """Save the model, whose weights are random, and its processor."""
    torch.manual_seed(0)
    swin = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=STAGES)
    config = UperNetConfig(
        backbone_config=backbone or swin,
        hidden_size=16,
        auxiliary_channels=8,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    model = UperNetForSemanticSegmentation(config).eval()
    awaken(model)
    tell_apart(model.decode_head.classifier, lambda: logits(model, torch.randn(4, 3, 64, 96)))
    model.save_pretrained(directory)
    SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor) -> tuple[Tensor]:
    """What the head of transformers gives before it enlarges that to the canvas: logits [B, C, h, w]."""
    seen: list[Tensor] = []
    hook = model.decode_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = model(pixel_values=pixel_values).logits
    hook.remove()
    enlarged = nn.functional.interpolate(seen[0], size=pixel_values.shape[2:], mode="bilinear", align_corners=False)
    assert torch.equal(output, enlarged)
    return (seen[0],)
