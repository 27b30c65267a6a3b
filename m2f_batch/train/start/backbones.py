"""Backbones of new models are found, in a Hugging Face directory, on the hub or in timm, and loaded.

Only safetensors and JSON are read, as for whole models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from m2f_batch.config.finetune import TIMM
from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.models.from_tensors import first_line, quiet
from m2f_batch.models.source import WANTED, find_model, local_directory
from m2f_batch.models.training import Training
from m2f_batch.storage.json_text import JsonObject, json_object_or_none
from m2f_batch.storage.uris import expanded
from m2f_batch.train.start.timm_backbones import architecture_of, hub_id_of, load_timm_weights, timm_config

# kinds whose class in transformers gives no pyramid of feature maps, and timm's does
IN_TIMM = {"mobilevit": "timm/mobilevit_s", "efficientnet": "timm/efficientnet_b0", "convnext": "timm/convnext_tiny"}


@dataclass(frozen=True)
class Backbone:
    """A backbone with its ``config`` as in ``backbone_config``. None for ``directory`` means random weights."""

    name: str
    config: dict[str, Any]
    directory: Path | None

    @property
    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Mean and deviation of red, green and blue, of 1, that its weights expect. None where nothing says."""
        if self.directory is None:
            return None
        processor = _read(self.directory / "preprocessor_config.json")
        if processor.get("do_normalize") is False:
            return [0.0] * 3, [1.0] * 3
        of_timm = _read(self.directory / "config.json").get("pretrained_cfg") or {}
        mean, std = (processor.get(f"image_{name}") or of_timm.get(name) for name in ("mean", "std"))
        return None if mean is None or std is None else (list(mean), list(std))


def find_backbone(name: str, training: Training, *, weights: bool) -> Backbone:
    """Find what ``model.backbone`` names, with its files on this node, and its weights where they are wanted.

    Without weights a directory needs no more than a config.json. Raises UsageError when there is no such backbone, or
    the family does not run on it.
    """
    name = expanded(name)
    if name.startswith(TIMM) and not Path(name).is_dir():
        architecture = name.removeprefix(TIMM)
        config = timm_config(name, architecture, training)
        return Backbone(name, config, _fetch(hub_id_of(name, architecture)) if weights else None)
    directory = _fetch(name) if weights else _fetch_config(name)
    tree = _read(directory / "config.json")
    of_timm = architecture_of(tree)
    config = _config(name, tree, training) if of_timm is None else timm_config(name, of_timm, training)
    return Backbone(name, config, directory if weights else None)


def load_backbone_weights(encoder: PreTrainedModel, backbone: Backbone) -> list[str]:
    """Put pretrained weights into a model's backbone, and return the names of the norms that they lack.

    Raises RunError when anything else is missing or of another shape.
    """
    assert backbone.directory is not None
    if backbone.config["model_type"] == "timm_backbone":
        load_timm_weights(encoder, backbone.name, backbone.directory)
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
        raise RunError(
            f"does not load: {first_line(error)}", field="model.backbone", value=Plain(backbone.name)
        ) from None
    # the norms on the outputs of stages belong to the use as a backbone, not to what was pretrained
    new = [name for name in info["missing_keys"] if "hidden_states_norms" in name]
    wrong = sorted({*info["missing_keys"]} - {*new}) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise RunError(
            f": {len(wrong)} tensors are missing or of another shape than config says, e.g. {wrong[0]}",
            field="model.backbone",
            value=Plain(backbone.name),
            hint="leave model.config.backbone_config as the weights have it",
        )
    encoder.load_state_dict(pretrained.state_dict())
    return sorted(new)


@torch.no_grad()
def check_features(encoder: nn.Module, name: str, training: Training) -> None:
    """Raise UsageError unless a backbone gives maps [B, C, H / stride, W / stride] of the family's strides."""
    strides, is_training = training.strides, encoder.training
    try:
        maps: Sequence[torch.Tensor] = encoder.eval()(torch.zeros(1, 3, 64, 64)).feature_maps
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise UsageError(
            f"cannot take 64 x 64 pixels ({first_line(error)})", field="model.backbone", value=Plain(name)
        ) from None
    finally:
        encoder.train(is_training)
    channels = list(encoder.channels)  # type: ignore[arg-type, unused-ignore]  # a list, which nn.Module does not know
    shapes = [tuple(each.shape[1:]) for each in maps]
    wanted = [(c, 64 // stride, 64 // stride) for c, stride in zip(channels, strides, strict=False)]
    if len(shapes) != len(strides) or shapes != wanted:
        raise UsageError(
            f"gives maps of {shapes} (channels, height, width) for 64 x 64 pixels; {training.family} "
            f"needs {len(strides)}, of strides {', '.join(map(str, strides))}: set "
            "model.config.backbone_config.out_features",
            field="model.backbone",
            value=Plain(name),
        )


def _config(name: str, tree: Mapping[str, Any], training: Training) -> dict[str, Any]:
    """Return ``backbone_config`` of a config.json of transformers."""
    kind = tree.get("model_type")
    if not isinstance(kind, str) or kind == "timm_backbone":  # which names its architecture, otherwise
        raise UsageError(
            "has no config.json that names a model_type, or an architecture of timm",
            field="model.backbone",
            value=Plain(name),
        )
    if kind not in training.backbone_kinds:
        raise UsageError(
            f"is a {kind!r}, which {training.family} does not run on",
            field="model.backbone",
            value=Plain(name),
            allowed=f"{', '.join(training.backbone_kinds)}{(f', or {IN_TIMM[kind]}' if kind in IN_TIMM else '')}",
        )
    return {key: value for key, value in tree.items() if key not in ("out_features", "out_indices")}


def _read(file: Path) -> JsonObject:
    """Returns a JSON object, empty when the file is none."""
    try:
        return json_object_or_none(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError):
        return {}


def _fetch(name: str, wanted: tuple[str, ...] = WANTED) -> Path:
    try:
        return local_directory(find_model(name, wanted=wanted))
    except (UsageError, RunError) as error:
        raise error.in_words({"model.uri": "model.backbone"}) from None


def _fetch_config(name: str) -> Path:
    try:
        return _fetch(name, wanted=("config.json",))
    except (UsageError, RunError) as error:
        hint = 'without weights a folder with a config.json such as {"model_type": "swin"} will do, and timm/NAME'
        raise error.with_hint(hint) from None
