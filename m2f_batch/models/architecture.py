"""What a Mask2Former of transformers is made of: its configuration, of whatever version, and what it never reads."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Mask2FormerConfig, PretrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from m2f_batch.errors import UsageError
from m2f_batch.models.old_configs import current_config

# not parameters of one class, yet what a backbone gives
OUTPUTS = ("out_features", "out_indices")


def architecture_of(config: Mapping[str, Any]) -> Mask2FormerConfig:
    """The architecture and the labels of a checked config.json, as version 4 or 5 wrote it.

    Only parameters of the architecture are taken. All else that versions wrote, tens of kilobytes of what every model
    has, and whatever anybody added, is not read. Raises UsageError when transformers refuses it.
    """
    tree = current_config(config)
    backbone = tree.get("backbone_config")
    wanted = {field.name for field in own_fields(Mask2FormerConfig)} - {"backbone_config"}
    taken = {
        name: coerced(value, annotation(Mask2FormerConfig, name)) for name, value in tree.items() if name in wanted
    }
    try:
        made = Mask2FormerConfig(backbone_config=None if backbone is None else _backbone_of(backbone), **taken)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"model.uri: no Mask2Former can be made of its config.json ({reason})") from None
    made.id2label = {int(i): str(name) for i, name in tree["id2label"].items()}
    made.label2id = {name: i for i, name in made.id2label.items()}
    return made


def is_never_read(model: Any, name: str) -> bool:
    """Whether a tensor of a Mask2FormerForUniversalSegmentation decides nothing in inference, so may be missing.

    - criterion.*: class weights of the loss.
    - swin.layernorm.*: transformers 5 wraps a whole SwinModel as a backbone, with the norm of its last hidden state.
      A backbone gives the states of its stages, each with a norm of its own, so nobody takes that one. Version 4 had
      no such tensor.
    - num_batches_tracked: batch norms count with it while they train.
    """
    encoder = "model.pixel_level_module.encoder."
    is_swin = type(model.get_submodule(encoder[:-1])).__name__ == "SwinBackbone"
    is_last_norm = is_swin and name.startswith(f"{encoder}swin.layernorm.")
    return is_last_norm or name.startswith("criterion.") or name.endswith(".num_batches_tracked")


def own_fields(kind: type[PretrainedConfig]) -> list["dataclasses.Field[Any]"]:
    """The parameters of a config class that are its own, not those of every config."""
    common = {field.name for field in dataclasses.fields(PretrainedConfig)}
    return [field for field in dataclasses.fields(kind) if field.name not in common and field.name[0] != "_"]


def annotation(kind: type[PretrainedConfig], name: str) -> Any:
    """The type that a config class wants for a parameter."""
    return {field.name: field.type for field in dataclasses.fields(kind)}.get(name, Any)


def coerced(value: Any, wanted: Any) -> Any:
    """A whole number where another is wanted, and 20.0 where a whole one is; anything else as it is.

    Version 4 took and wrote both; version 5 refuses them.
    """
    taken = set(typing.get_args(wanted)) or {wanted}
    if type(value) is int and float in taken and int not in taken:
        return float(value)
    if type(value) is float and int in taken and float not in taken and value.is_integer():
        return int(value)
    return value


def _backbone_of(tree: Mapping[str, Any]) -> PretrainedConfig:
    kind = tree["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"backbone_config.model_type {kind!r} is not known to this transformers")
    made: type[PretrainedConfig] = CONFIG_MAPPING[kind]
    return made(**_parameters(made, tree) | {name: tree[name] for name in OUTPUTS if name in tree})


def _parameters(kind: type[PretrainedConfig], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a config class that a config.json gives."""
    names = [field.name for field in own_fields(kind) if field.name in tree]
    return {name: coerced(tree[name], annotation(kind, name)) for name in names}
