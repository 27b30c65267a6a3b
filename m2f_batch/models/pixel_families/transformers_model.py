"""Loads the per-pixel models of transformers, without what only their training needs, and runs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    BeitForSemanticSegmentation,
    PretrainedConfig,
    PreTrainedModel,
    SegformerForSemanticSegmentation,
    UperNetForSemanticSegmentation,
)

from m2f_batch.errors import UsageError
from m2f_batch.models.backbone_configs import current_config
from m2f_batch.models.config_classes import OUTPUTS, backbone_of, parameters_of
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.predictions import PixelLogits

Model = TypeVar("Model", bound=PreTrainedModel)


def load_segformer(directory: Path, config: Mapping[str, Any]) -> SegformerForSemanticSegmentation:
    """The SegFormer of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    # older models of classification left the last stage in a row, which the head then takes for a square
    return _loaded(SegformerForSemanticSegmentation, directory, config, {"reshape_last_stage": True})


def load_beit(directory: Path, config: Mapping[str, Any]) -> BeitForSemanticSegmentation:
    """The BEiT of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    outputs = {name: config[name] for name in (*OUTPUTS, "segmentation_indices") if config.get(name) is not None}
    return _loaded(BeitForSemanticSegmentation, directory, config, {**outputs, "use_auxiliary_head": False})


def load_upernet(directory: Path, config: Mapping[str, Any]) -> UperNetForSemanticSegmentation:
    """The UperNet of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    return _loaded(UperNetForSemanticSegmentation, directory, config, {"use_auxiliary_head": False})


def predict(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run one forward pass of the modules of SegFormer or BEiT."""
    return PixelLogits(model(pixel_values=pixel_values).logits)


def predict_upernet(model: nn.Module, pixel_values: Tensor) -> PixelLogits:
    """Run backbone and head. Their logits are at 1/4 of the canvas, as post-processing enlarges them anyway."""
    assert isinstance(model, UperNetForSemanticSegmentation)
    return PixelLogits(model.decode_head(model.backbone.forward_with_filtered_kwargs(pixel_values).feature_maps))


def _loaded(kind: type[Model], directory: Path, config: Mapping[str, Any], fixed: Mapping[str, Any]) -> Model:
    return model_from_tensors(kind, _architecture(kind.config_class, config, fixed), directory, _is_never_read)


def _architecture(
    kind: type[PretrainedConfig] | None, config: Mapping[str, Any], fixed: Mapping[str, Any]
) -> PretrainedConfig:
    """The architecture and the labels of a checked config.json. Raises UsageError when transformers refuses it."""
    assert kind is not None
    tree = current_config(config)
    backbone = tree.pop("backbone_config", None)
    try:
        described = {} if backbone is None else {"backbone_config": backbone_of(backbone)}
        made = kind(**{**parameters_of(kind, tree), **described, **fixed})
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"no {kind.__name__.removesuffix('Config')} can be made of its config.json ({reason})", field="model.uri"
        ) from None
    made.id2label = {int(i): str(name) for i, name in config["id2label"].items()}
    made.label2id = {name: i for i, name in made.id2label.items()}
    return made


def _is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    ``swin.layernorm`` is of the last hidden state, which a backbone does not give (as in Mask2Former), and what
    version 4 did not have.
    """
    return name.startswith("backbone.swin.layernorm.")
