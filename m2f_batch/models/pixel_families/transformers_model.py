"""Loads the per-pixel models of transformers, without what only their training needs, and runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import OUTPUTS, architecture_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.fast_layers.staged import BackboneOutput
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.pixel_families.beit_bias import with_fast_bias
from m2f_batch.models.pixel_families.heads import segformer_logits, upernet_logits
from m2f_batch.models.pixel_families.modules import Beit, Segformer, UperNet
from m2f_batch.models.predictions import PixelLogits


def load_segformer(directory: Path, config: JsonMapping, task: Task | None) -> SegformerForSemanticSegmentation:
    """Load the SegFormer of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    # older models of classification left the last stage in a row, which the head then takes for a square
    made = architecture_of(SegformerConfig, config, "SegFormer", reshape_last_stage=True)
    return model_from_tensors(SegformerForSemanticSegmentation, made, directory)


def load_beit(directory: Path, config: JsonMapping, task: Task | None) -> BeitForSemanticSegmentation:
    """Load the BEiT of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    outputs = {name: config[name] for name in (*OUTPUTS, "segmentation_indices") if config.get(name) is not None}
    made = architecture_of(BeitConfig, config, "BEiT", use_auxiliary_head=False, **outputs)
    model = model_from_tensors(BeitForSemanticSegmentation, made, directory)
    with_fast_bias(model)
    return model


def load_upernet(directory: Path, config: JsonMapping, task: Task | None) -> UperNetForSemanticSegmentation:
    """Load the UperNet of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    made = architecture_of(UperNetConfig, config, "UperNet", use_auxiliary_head=False)
    return model_from_tensors(UperNetForSemanticSegmentation, made, directory, _is_never_read)


def predict_segformer(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run the stages and the head of a SegFormer."""
    segformer = cast(Segformer, model)
    states = [pixel_values]
    for stage in segformer.segformer.stages:
        states.append(stage(states[-1]))
    return PixelLogits(segformer_logits(segformer.decode_head, states[1:]))


def predict_beit(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run a BEiT as transformers does.

    There ``out_indices`` count from 1 what the embeddings and each block give, and 0 is the last block.
    """
    beit = cast(Beit, model)
    states = len(beit.beit.layers) + 1
    return _beit_logits(beit, pixel_values, [(index - 1) % states for index in beit.config.out_indices])


def predict_published_beit(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run a BEiT with the states that unilm's ``forward_features`` gives its neck.

    ``out_indices`` count its blocks from 0, so that transformers itself takes the states of two blocks before.
    """
    beit = cast(Beit, model)
    return _beit_logits(beit, pixel_values, [index + 1 for index in beit.config.out_indices])


def _beit_logits(model: Beit, pixel_values: Tensor, after: Sequence[int]) -> PixelLogits:
    """Run the neck and the head on the states after so many blocks. No block behind the last of them is run."""
    batch, _, height, width = pixel_values.shape
    grid = height // model.config.patch_size, width // model.config.patch_size
    states = [model.beit.embeddings(pixel_values)]
    shared = model.beit.shared_position_bias
    bias = None if shared is None else shared(grid, dim_size=states[0].shape[1])
    for layer in model.beit.layers[: max(after)]:
        states.append(layer(states[-1], attention_mask=bias, resolution=(height, width)))
    maps = [states[count][:, 1:].transpose(1, 2).reshape(batch, -1, *grid) for count in after]
    return PixelLogits(upernet_logits(model.decode_head, model.fpn(maps)))


def predict_upernet(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run backbone and head. Their logits are at 1/4 of the canvas, as post-processing enlarges them anyway."""
    upernet = cast(UperNet, model)
    features = cast(BackboneOutput, upernet.backbone(pixel_values)).feature_maps
    return PixelLogits(upernet.decode_head(features))


def _is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    ``swin.layernorm`` is of the last hidden state, which a backbone does not give (as in Mask2Former), and what
    version 4 did not have.
    """
    return name.startswith("backbone.swin.layernorm.")
