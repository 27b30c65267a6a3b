"""A small model, drawn scenes and steps on them, for tests and pictures of training in several processes."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from m2f_batch.demo.scenes import CATEGORIES, TRAIN_SEED, draw_scene
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.train.data.order import micro_batches, share
from m2f_batch.train.data.samples import Sample
from m2f_batch.train.loop.step import Rules
from m2f_batch.train.objective.mask_classification import MaskClassification
from m2f_batch.train.objective.objective import LossSettings
from m2f_batch.vision.masks.rle import encode_mask

CANVAS = (96, 96)
QUERIES, LAYERS = 12, 3
BATCH = 5  # unequal shares for two


def small_model() -> Any:
    """Random weights, no batch norm and no dropout: nothing that ties an image to its neighbors."""
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=LAYERS,
        num_attention_heads=2,
        num_queries=QUERIES,
        train_num_points=256,
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: index for index, name in enumerate(CATEGORIES)},
    )
    model = Mask2FormerForUniversalSegmentation(config).train()
    for name, parameter in model.named_parameters():
        if "swin.layernorm" in name:  # never gets a gradient
            parameter.requires_grad_(False)
    return model


def plan() -> PreprocessPlan:
    """Return how pixels are normalized."""
    return plan_from_processor({"size": {"height": CANVAS[0], "width": CANVAS[1]}, "resample": 2})


def sample_of(position: int) -> Sample:
    """Draw a scene, cut to the canvas. Some keep many objects, some none."""
    return scene_of(position, position % 4 * 3)


@cache
def scene_of(position: int, most: int | None = None) -> Sample:
    """Draw a scene, cut to the canvas, with its first ``most`` objects, or all of them if None."""
    scene = draw_scene(TRAIN_SEED + position)
    image = np.ascontiguousarray(scene.image[: CANVAS[0], : CANVAS[1]])
    found = [
        (label, encode_mask(mask[: CANVAS[0], : CANVAS[1]]).counts)
        for label, mask in zip(scene.category_ids, scene.masks(), strict=True)
        if mask[: CANVAS[0], : CANVAS[1]].any()
    ]
    kept = found[:most]
    labels = np.array([label for label, _ in kept], np.int64)
    return Sample(position, position, f"scene {position}", image, labels, tuple(code for _, code in kept), None)


def rules(rate: float = 1.0) -> Rules:
    """Return how steps are done, with this share of the learning rate."""
    objective = MaskClassification(LossSettings(train_num_points=256), QUERIES, LAYERS)
    return Rules(objective, plan(), CANVAS, 3, lambda _: rate, 0.01, bf16=False, skip_nonfinite=False)


def parts_of(step: int, rank: int, world_size: int, accumulate: int) -> list[list[Sample]]:
    """The micro-batches of one process in one step."""
    return [[*map(sample_of, part)] for part in micro_batches(share(step, BATCH, rank, world_size), accumulate)]


class PlainLoss(nn.Module):
    """The loss that ``transformers`` computes, where DDP may find it: in the forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, masks: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Return pixel values [B, 3, H, W], and of each image its masks, float [N, H, W], and their labels [N]."""
        loss: Tensor = self.model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss
        return loss
