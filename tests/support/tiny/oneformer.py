"""A tiny OneFormer: Swin with windows of 4 patches, 32 features, 3 decoder layers, 12 queries."""

from pathlib import Path
from typing import Any

import torch
from support.tiny.weights import awaken, tell_apart
from torch import Tensor
from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, OneFormerImageProcessor, SwinConfig

LABELS = {0: "ball", 1: "box", 2: "star", 3: "sky", 4: "sea"}
PANOPTIC = [49406, 518, 10549, 533, 1072, 24755, 49407]


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
    config = OneFormerConfig(
        backbone_config=backbone,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=3,
        query_dec_layers=1,
        num_queries=12,
        text_encoder_width=8,
        text_encoder_num_layers=1,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
        label_ids_to_fuse=[3, 4],
    )
    model = OneFormerForUniversalSegmentation(config).eval()
    awaken(model)
    model.model.task_encoder.task_mlp.layers[0].get_submodule("0").weight.data.mul_(1e-4)  # of ids up to 49407
    model.model.transformer_module.queries_embedder.weight.data.mul_(4)  # else the queries of an image agree
    seen = torch.randn(1, 3, 64, 96)  # of more images the queries of one would agree
    tell_apart(model.model.transformer_module.decoder.class_embed, lambda: logits(model, seen))
    model.save_pretrained(directory)
    processor = OneFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    processor.class_info_file = "tiny_panoptic.json"  # of a data set of the hub, as published ones say
    processor.save_pretrained(directory)
    return directory


def logits(model: Any, pixel_values: Tensor, ids: list[int] = PANOPTIC) -> tuple[Tensor, Tensor]:
    """What transformers gives: class logits [B, Q, C + 1] and mask logits [B, Q, h, w]."""
    task = torch.zeros(len(pixel_values), 77, dtype=pixel_values.dtype)
    task[:, : len(ids)] = torch.tensor(ids)
    output = model(pixel_values=pixel_values, task_inputs=task)
    return output.class_queries_logits, output.masks_queries_logits
