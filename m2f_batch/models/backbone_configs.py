"""A config.json of older transformers is told in today's words, so that nothing in it has to be asked of anybody.

Until version 4 a config could name its backbone instead of describing it. Version 5 then asks the hub by that name,
for a local directory too.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# keys of version 4 that stand in for ``backbone_config``
BACKBONE_KEYS = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")
# what version 4 took from ``backbone_kwargs`` for a backbone of timm
TIMM_KWARGS = ("num_channels", "features_only", "out_indices", "freeze_batch_norm_2d")

NATTEN = ("dinat", "nat")


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked config.json with its backbone in ``backbone_config``.

    ``use_pretrained_backbone`` means nothing here, because weights of the directory replace whatever a
    backbone was trained on. None are ever looked for.
    """
    tree = {key: value for key, value in config.items() if key not in BACKBONE_KEYS}
    if names_backbone(config):
        kwargs = config.get("backbone_kwargs") or {}
        tree["backbone_config"] = {**kwargs, "model_type": "timm_backbone", "backbone": config["backbone"]}
    return tree


def names_backbone(config: Mapping[str, Any]) -> bool:
    """Tell whether the backbone is only named."""
    return config.get("backbone") is not None and config.get("backbone_config") is None


def backbone_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the backbone cannot be built from what the directory holds."""
    backbone = config.get("backbone_config")
    if backbone is not None and not isinstance(backbone, dict):
        yield f"backbone_config must be an object, not {backbone!r}"
    elif backbone is not None and not isinstance(backbone.get("model_type"), str):
        yield "backbone_config must have a model_type, e.g. swin"
    if not names_backbone(config):
        return
    name, kwargs = config["backbone"], config.get("backbone_kwargs") or {}
    if not isinstance(name, str):
        yield f"backbone must be a text, not {name!r}"
    elif "/" in name:
        yield (
            f"backbone {name!r} names a model of the hub, which is never asked for parts of a model; {described(name)}"
        )
    if not isinstance(kwargs, dict):
        yield f"backbone_kwargs must be an object, not {kwargs!r}"
    else:
        unknown = sorted(set(kwargs) - set(TIMM_KWARGS))
        if unknown:
            yield f"backbone_kwargs: {unknown[0]!r} is not known; allowed: {', '.join(TIMM_KWARGS)}"


def natten_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield that the backbone is one of those that only natten computes."""
    backbone = config.get("backbone_config")
    kind = backbone.get("model_type") if isinstance(backbone, dict) else None
    if kind in NATTEN:
        yield f"the backbone {kind!r} needs the kernels of natten, which are not used here"


def timm_problems(config: Mapping[str, Any], tensors: Iterable[str], prefix: str) -> Iterator[str]:
    """Yield why weights do not hold the backbone that is only named: none of timm, whose tensors begin with a prefix.

    Version 4 took such a name for a model of the hub, too.
    """
    if names_backbone(config) and not any(name.startswith(prefix) for name in tensors):
        backbone = config["backbone"]
        yield f"backbone {backbone!r} is no model of timm in the weights; {described(backbone)}"


def described(name: str) -> str:
    """Advise what to do about a backbone that is no part of timm."""
    return (
        f"write its settings as backbone_config, which AutoConfig.from_pretrained({name!r}).to_dict() gives, with the "
        "out_features that the model was trained with, and remove backbone"
    )
