"""Backbones of new models: a Hugging Face directory or hub id, or one of timm; their configs and pretrained weights.

Only safetensors and JSON are read, as for whole models.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from m2f_batch.errors import RunError, UsageError
from m2f_batch.storage.model_source import find_model, local_directory
from m2f_batch.train.model_config import BACKBONES
from m2f_batch.vision.model import first_line, quiet

STRIDES = (4, 8, 16, 32)  # of the four feature maps that Mask2Former takes
TIMM = "timm/"


@dataclass(frozen=True)
class Backbone:
    """``config`` as in Mask2FormerConfig's ``backbone_config``; ``directory`` holds the weights, None: random ones."""

    name: str
    config: dict[str, Any]
    directory: Path | None


def find_backbone(name: str, *, weights: bool) -> Backbone:
    """What ``model.backbone`` names, with its files on this node; its weights only where they are wanted.

    Raises UsageError when there is no such backbone, or Mask2Former does not run on it.
    """
    if name.startswith(TIMM) and not Path(name).is_dir():
        return _find_timm(name, weights)
    directory = _fetch(name)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"model.backbone: {name} has no config.json that names a model_type") from None
    if kind not in BACKBONES:
        raise UsageError(
            f"model.backbone: {name} is a {kind!r}, which Mask2Former does not run on; allowed: {', '.join(BACKBONES)}"
        )
    config = {key: value for key, value in config.items() if key not in ("out_features", "out_indices")}
    if kind == "timm_backbone":
        return _find_timm(f"{TIMM}{config.get('backbone')}", weights)
    return Backbone(name, config, directory if weights else None)


def load_backbone_weights(model: Any, backbone: Backbone) -> list[str]:
    """Put pretrained weights into a Mask2Former's backbone; the names of the norms that they lack and stay new.

    Raises RunError when anything else is missing or of another shape.
    """
    assert backbone.directory is not None
    encoder = model.model.pixel_level_module.encoder
    if backbone.config["model_type"] == "timm_backbone":
        _load_timm(encoder, backbone)
        return []
    try:
        with quiet():
            pretrained, info = type(encoder).from_pretrained(  # AutoBackbone would ask the hub, for a directory too
                backbone.directory,
                config=encoder.config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"model.backbone: {backbone.name} does not load: {first_line(error)}") from None
    # the norms on the outputs of stages belong to the use as a backbone, not to what was pretrained
    new = [name for name in info["missing_keys"] if "hidden_states_norms" in name]
    wrong = sorted({*info["missing_keys"]} - {*new}) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise RunError(
            f"model.backbone: {backbone.name}: {len(wrong)} tensors are missing or of another shape than config says, "
            f"e.g. {wrong[0]}; leave model.config.backbone_config as the weights have it"
        )
    encoder.load_state_dict(pretrained.state_dict())
    return sorted(new)


@torch.no_grad()
def check_features(encoder: nn.Module, name: str) -> None:
    """Raise UsageError unless a backbone gives four maps [B, C, H / stride, W / stride] of the strides 4 to 32."""
    training = encoder.training
    try:
        maps: Sequence[torch.Tensor] = encoder.eval()(torch.zeros(1, 3, 64, 64)).feature_maps
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise UsageError(f"model.backbone: {name} cannot take 64 x 64 pixels ({first_line(error)})") from None
    finally:
        encoder.train(training)
    channels = list(encoder.channels)  # type: ignore[arg-type, unused-ignore]  # a list, which nn.Module does not know
    shapes = [tuple(each.shape[1:]) for each in maps]
    wanted = [(c, 64 // stride, 64 // stride) for c, stride in zip(channels, STRIDES, strict=False)]
    if len(shapes) != len(STRIDES) or shapes != wanted:
        raise UsageError(
            f"model.backbone: {name} gives maps of {shapes} (channels, height, width) for 64 x 64 pixels; Mask2Former "
            f"needs four, of strides {', '.join(map(str, STRIDES))}: set model.config.backbone_config.out_features"
        )


def _fetch(name: str) -> Path:
    try:
        return local_directory(find_model(name))
    except (UsageError, RunError) as error:
        raise type(error)(str(error).replace("model.uri", "model.backbone")) from None


# ---- timm


def _find_timm(name: str, weights: bool) -> Backbone:
    timm, architecture = _timm(name), name.removeprefix(TIMM)
    try:
        reductions = timm.create_model(architecture, features_only=True, pretrained=False).feature_info.reduction()
    except Exception as error:  # noqa: BLE001  # timm raises what it likes for names and kinds it cannot use
        raise UsageError(
            f"model.backbone: timm cannot make feature maps with {architecture!r} ({first_line(error)}); "
            f"python -c \"import timm; print(timm.list_models('*{architecture.split('_')[0]}*'))\" lists names"
        ) from None
    indices = [reductions.index(stride) for stride in STRIDES if stride in reductions]
    if len(indices) != len(STRIDES) or len(set(reductions)) != len(reductions):
        raise UsageError(
            f"model.backbone: {architecture!r} of timm has maps of the strides {reductions}; Mask2Former needs "
            f"{', '.join(map(str, STRIDES))}: take a pyramid such as timm/resnet50, timm/efficientnet_b0"
        )
    config = {
        "model_type": "timm_backbone",
        "backbone": architecture,
        "num_channels": 3,
        "features_only": True,
        "out_indices": indices,
    }
    return Backbone(name, config, _timm_weights(timm, architecture) if weights else None)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise UsageError(
            f"model.backbone: {name!r} needs the package timm: pip install 'm2f-batch[timm]', on every node"
        ) from None
    return timm


def _timm_weights(timm: Any, architecture: str) -> Path:
    hub_id = getattr(timm.get_pretrained_cfg(architecture), "hf_hub_id", None)
    if not hub_id:
        raise UsageError(
            f"model.backbone: timm has no pretrained weights for {architecture!r}; set model.backbone_weights=false"
        )
    return _fetch(hub_id)


def _load_timm(encoder: Any, backbone: Backbone) -> None:
    """timm's own loading, which knows how names and input layers differ, from a safetensors file."""
    timm = _timm(backbone.name)
    assert backbone.directory is not None
    try:
        weights = load_file(backbone.directory / "model.safetensors")
        pretrained = timm.create_model(
            backbone.config["backbone"],
            features_only=True,
            out_indices=tuple(backbone.config["out_indices"]),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": weights},
        )
        encoder._backbone.load_state_dict(pretrained.state_dict())
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise RunError(f"model.backbone: the weights of {backbone.name} do not load: {first_line(error)}") from None
