"""A config.json of any version is turned into the configuration classes of transformers, parameter by parameter."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from m2f_batch.errors import UsageError
from m2f_batch.models.backbone_configs import current_config

Config = TypeVar("Config", bound=PretrainedConfig)

# not parameters of one class, yet a backbone has them
OUTPUTS = ("out_features", "out_indices")


def own_fields(kind: type[PretrainedConfig]) -> list["dataclasses.Field[object]"]:
    """List the parameters of a config class that are its own, not those of every config."""
    common = {field.name for field in dataclasses.fields(PretrainedConfig)}
    return [field for field in dataclasses.fields(kind) if field.name not in common and field.name[0] != "_"]


def annotation(kind: type[PretrainedConfig], name: str) -> object:
    """Return the type that a config class wants for a parameter."""
    return {field.name: field.type for field in dataclasses.fields(kind)}.get(name, Any)


def coerced(value: object, wanted: object) -> object:
    """Turn a whole number into another where that is wanted, and 20.0 into 20. Anything else stays as it is.

    Version 4 took and wrote both, but version 5 refuses them.
    """
    taken = set(typing.get_args(wanted)) or {wanted}
    if type(value) is int and float in taken and int not in taken:
        return float(value)
    if type(value) is float and int in taken and float not in taken and value.is_integer():
        return int(value)
    return value


def parameters_of(kind: type[PretrainedConfig], tree: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of a config class that a config.json gives."""
    names = [field.name for field in own_fields(kind) if field.name in tree]
    return {name: coerced(tree[name], annotation(kind, name)) for name in names}


def backbone_class(kind: str) -> type[PretrainedConfig]:
    """Return the config class of a backbone by its model_type. Raises ValueError when transformers has none."""
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"backbone_config.model_type {kind!r} is not known to this transformers")
    found: type[PretrainedConfig] = CONFIG_MAPPING[kind]
    return found


def backbone_of(tree: Mapping[str, Any]) -> PretrainedConfig:
    """Make the configuration of a backbone from ``backbone_config``. Raises what transformers raises for values."""
    made = backbone_class(tree["model_type"])
    return made(**parameters_of(made, tree), **{name: tree[name] for name in OUTPUTS if name in tree})


def architecture_of(kind: type[Config], config: Mapping[str, Any], family: str, **instead: Any) -> Config:
    """Make the architecture and the labels of a checked config.json, as version 4 or 5 wrote it.

    Only parameters of the architecture are taken. All else that versions wrote, tens of kilobytes of what every model
    has, and whatever anybody added, is not read. ``instead`` are parameters that replace those of config.json. Raises
    UsageError when transformers refuses it.
    """
    tree = current_config(config)
    backbone = tree.get("backbone_config")
    left_out = {"backbone_config", *instead}
    taken = parameters_of(kind, {name: value for name, value in tree.items() if name not in left_out})
    try:
        described = {} if backbone is None else {"backbone_config": backbone_of(backbone)}
        made = kind(**taken, **described, **instead)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"no {family} can be made of its config.json ({reason})", field="model.uri") from None
    made.id2label = {int(i): str(name) for i, name in tree["id2label"].items()}
    made.label2id = {name: i for i, name in made.id2label.items()}
    return made
