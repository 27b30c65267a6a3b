"""Backbones of timm are described as transformers has them, and get their weights from a directory.

A directory may be timm's own (``architecture`` in config.json, the form in which the hub has them), or one that
``transformers`` saved of its wrappers around timm.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.models.from_tensors import first_line
from m2f_batch.models.training import Training

PREFIXES = ("_backbone.", "timm_model.")  # that the wrappers of transformers put before timm's names


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """Return the architecture that a config.json names, or None when it is none of timm's."""
    if config.get("model_type") == "timm_backbone":
        name = config.get("backbone")
    else:  # timm's own has no model_type, or that of transformers' classifier around it
        name = config.get("architecture") if config.get("model_type", "timm_wrapper") == "timm_wrapper" else None
    # timm would take hf-hub:... and local-dir:... for another place to read from
    return name if isinstance(name, str) and not re.search(r"[/:]", name) else None


def timm_config(name: str, architecture: str, training: Training) -> dict[str, Any]:
    """``backbone_config`` of an architecture. Raises UsageError when it lacks a map of one of the family's strides."""
    strides = training.strides
    timm = _timm(name)
    try:
        reductions = timm.create_model(architecture, features_only=True, pretrained=False).feature_info.reduction()
    except Exception as error:  # noqa: BLE001  # timm raises what it likes for names and kinds it cannot use
        raise UsageError(
            f"timm cannot make feature maps with {architecture!r} ({first_line(error)}); python -c "
            f"\"import timm; print(timm.list_models('*{architecture.split('_')[0]}*'))\" lists names",
            field="model.backbone",
        ) from None
    indices = [reductions.index(stride) for stride in strides if stride in reductions]
    if len(indices) != len(strides) or len(set(reductions)) != len(reductions):
        raise UsageError(
            f"of timm has maps of the strides {reductions}; {training.family} needs "
            f"{', '.join(map(str, strides))}: take a pyramid such as timm/resnet50, timm/efficientnet_b0",
            field="model.backbone",
            value=architecture,
        )
    return {
        "model_type": "timm_backbone",
        "backbone": architecture,
        "num_channels": 3,
        "features_only": True,
        "out_indices": indices,
    }


def hub_id_of(name: str, architecture: str) -> str:
    """Return the hub id under which timm has the weights of an architecture. Raises UsageError when it has none."""
    hub_id = getattr(_timm(name).get_pretrained_cfg(architecture), "hf_hub_id", None)
    if not hub_id:
        raise UsageError(
            f"timm has no pretrained weights for {architecture!r}",
            field="model.backbone",
            hint="set model.backbone_weights=false",
        )
    return str(hub_id)


def load_timm_weights(encoder: Any, name: str, directory: Path) -> None:
    """Weights of a directory into a TimmBackbone. Raises RunError unless they are all there.

    By timm's own loading, which knows how names of older weights differ, unless they are a feature pyramid's already.
    """
    config, ours = encoder.config, encoder._backbone
    try:
        given = {_bare(key): value.float() for key, value in load_file(directory / "model.safetensors").items()}
        if given.keys() == ours.state_dict().keys():
            ours.load_state_dict(given)
            return
        pretrained = _timm(name).create_model(
            config.backbone,
            features_only=True,
            out_indices=tuple(config.out_indices),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": dict(given)},
        )
        missing = _not_given(pretrained.state_dict(), given)
        if missing:
            raise RunError(
                f": {len(missing)} tensors of {config.backbone} are not among the weights, e.g. {missing[0]}",
                field="model.backbone",
                value=Plain(name),
            )
        ours.load_state_dict(pretrained.state_dict())
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise RunError(f"the weights of {name} do not load: {first_line(error)}", field="model.backbone") from None


def _bare(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _not_given(loaded: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors that have the values of none given, under whatever name: timm keeps new ones where it finds none."""
    known = {_digest(value) for value in given.values()}
    return [name for name, value in loaded.items() if value.is_floating_point() and _digest(value.float()) not in known]


def _digest(value: torch.Tensor) -> bytes:
    return sha256(value.contiguous().numpy().tobytes()).digest()


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise UsageError(
            "needs the package timm: pip install 'm2f-batch[timm]', on every node", field="model.backbone", value=name
        ) from None
    return timm
