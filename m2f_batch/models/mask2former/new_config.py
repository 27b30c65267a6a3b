"""``model.config.*`` becomes a Mask2FormerConfig. Every parameter can be set, and every mistake is explained.

Numbers are coerced (``class_weight: 2``), which transformers refuses. Unknown names are refused, which it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import Mask2FormerConfig, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.models.auto import CONFIG_MAPPING

from m2f_batch.errors import UsageError
from m2f_batch.messages.near_miss import did_you_mean
from m2f_batch.models.config_classes import annotation, coerced, own_fields
from m2f_batch.models.family import JsonMapping

Config = TypeVar("Config", bound=PretrainedConfig)

PARAMETERS = tuple(Mask2FormerConfig.__annotations__)
RENAMED = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}
STRIDES = (4, 8, 16, 32)  # of the four feature maps of a backbone
# backbones whose feature maps Mask2Former can use: of the others some fail at once and some in the first step
BACKBONES = ("swin", "swinv2", "resnet", "pvt_v2", "dinov3_convnext", "timm_backbone")
GONE = {
    "backbone": "transformers has no such parameter any more; give model.backbone (timm/NAME for one of timm)",
    "use_pretrained_backbone": "transformers ignores it silently; give model.backbone_weights",
    "use_timm_backbone": "transformers has no such parameter any more; give model.backbone as timm/NAME",
    "backbone_kwargs": "transformers has no such parameter any more; give model.config.backbone_config, e.g. "
    "model.config.backbone_config.out_features",
    "id2label": "the labels are the categories of data.train; data.names names the classes of mask PNGs",
    "label2id": "the labels are the categories of data.train; data.names names the classes of mask PNGs",
    "num_labels": "the labels are the categories of data.train",
    "label_ids_to_fuse": "what is stuff comes from the categories of data.train",
    "task": "give model.task",
}


def new_config(changes: JsonMapping, base: JsonMapping | None = None) -> Mask2FormerConfig:
    """Make a Mask2FormerConfig: ``changes`` (``model.config``) over ``base`` (a config.json), over the defaults.

    ``backbone_config`` is laid over that of ``base`` key by key. Without ``out_features`` a backbone gives its last
    four stages. Raises UsageError, with one line per mistake.
    """
    changes = {RENAMED.get(name, name): value for name, value in changes.items()}
    started = _tree_of(base, changes.get("backbone_config"))
    _refuse([*_unknown("model.config", changes, PARAMETERS)])
    tree = {name: started[name] for name in PARAMETERS if name in started} | dict(changes)
    tree = {name: coerced(value, annotation(Mask2FormerConfig, name)) for name, value in tree.items()}
    tree["backbone_config"] = backbone_config(changes.get("backbone_config"), started.get("backbone_config"))
    config = _made(Mask2FormerConfig, tree, "model.config")
    _refuse([*_wrong_values(config)])
    return config


def _refuse(mistakes: Sequence[UsageError]) -> None:
    if mistakes:
        raise UsageError.of_all(mistakes)


def backbone_config(changes: object, base: JsonMapping | None = None) -> PretrainedConfig:
    """Make the config of a backbone: ``changes`` (``model.config.backbone_config``) over ``base``."""
    name, base, changes = "model.config.backbone_config", base or {}, {} if changes is None else changes
    if not isinstance(changes, Mapping):
        allowed = "a mapping such as {model_type: swin, ...}"
        raise UsageError("is not allowed", field=name, value=changes, allowed=allowed)
    kind = changes.get("model_type", base.get("model_type"))
    if base and kind != base.get("model_type"):
        raise UsageError(
            f"is not that of the weights to start from, {base.get('model_type')!r}",
            field=f"{name}.model_type",
            value=kind,
            hint="leave model.uri and model.backbone out to start without weights",
        )
    if kind not in BACKBONES:
        raise UsageError(
            f"is not allowed{_near(str(kind), BACKBONES)}",
            field=f"{name}.model_type",
            value=kind,
            hint=f"backbones that Mask2Former runs on: {', '.join(BACKBONES)}",
        )
    made: type[PretrainedConfig] = CONFIG_MAPPING[kind]
    known = [*(field.name for field in own_fields(made)), "out_features", "out_indices", "model_type", "stage_names"]
    _refuse([*_unknown(name, changes, known)])
    tree = {key: value for key, value in base.items() if key in known} | dict(changes)
    tree = {key: coerced(value, annotation(made, key)) for key, value in tree.items() if key != "model_type"}
    if kind == "timm_backbone":
        return _made(made, tree, name)
    tree.pop("stage_names", None)
    if {"out_features", "out_indices"} & changes.keys():
        tree = {key: value for key, value in tree.items() if not key.startswith("out_") or key in changes}
    elif not base.get("out_features") or len(base["out_features"]) != 4:
        tree.pop("out_indices", None)
        tree["out_features"] = None
    config = _made(
        made, {key: value for key, value in tree.items() if value is not None or key != "out_features"}, name
    )
    if tree.get("out_features", ()) is None:
        config.out_features = config.stage_names[-4:]
    return config


def _tree_of(base: JsonMapping | None, backbone: object) -> JsonMapping:
    """Return the tree that ``changes`` are laid over, with the default backbone unless another is asked for."""
    tree: dict[str, object] = Mask2FormerConfig.from_dict(dict(base or {})).to_dict()
    if base is None and isinstance(backbone, Mapping) and "model_type" in backbone:
        tree["backbone_config"] = None
    return tree


def _unknown(prefix: str, tree: JsonMapping, known: Sequence[str]) -> Iterator[UsageError]:
    for name, value in tree.items():
        field = f"{prefix}.{name}"
        if name in GONE and name not in known:
            yield UsageError(f"cannot be set: {GONE[name]}", field=field, value=value)
        elif name not in known:
            near = _near(name, known, f"{prefix}.")
            problem, allowed = f"unknown parameter (value {value!r}){near}", "" if near else ", ".join(known)
            yield UsageError(problem, field=field, allowed=allowed)


def _near(name: str, known: Sequence[str], prefix: str = "") -> str:
    near = did_you_mean(name, {other: f"{prefix}{other}" for other in known})
    return f"; {near}" if near else ""


def _made(kind: type[Config], tree: JsonMapping, prefix: str) -> Config:
    try:
        return kind(**tree)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        text = " ".join(str(error).split())
        name = text.partition("field '")[2].partition("'")[0]
        if name in tree:
            wanted = str(annotation(kind, name)).removeprefix("<class '").removesuffix("'>")
            raise UsageError("is not allowed", field=f"{prefix}.{name}", value=tree[name], allowed=wanted) from None
        raise UsageError(f"transformers refuses it: {text[:300]}", field=prefix) from None


def _wrong_values(config: Mask2FormerConfig) -> Iterator[UsageError]:
    """Yield what the types allow and the model does not."""
    for name, (allowed, fine) in RULES.items():
        if not fine(config):
            value = getattr(config, name)
            yield UsageError("is not allowed", field=f"model.config.{name}", value=value, allowed=allowed)
    heads = config.num_attention_heads
    for name in ("hidden_dim", "feature_size"):
        value = getattr(config, name)
        if heads >= 1 and value % heads:
            allowed = f"a multiple of model.config.num_attention_heads, {heads}"
            yield UsageError("is not allowed", field=f"model.config.{name}", value=value, allowed=allowed)
    if not (config.class_weight or config.mask_weight or config.dice_weight):
        yield UsageError("all are 0; one must be above", field="model.config.class_weight, mask_weight, dice_weight")


Rule = tuple[str, Callable[[Mask2FormerConfig], bool]]  # what is allowed, and whether a config has that


def _at_least(least: float, *names: str) -> dict[str, Rule]:
    def rule(name: str) -> Rule:
        return f"{least} or more", lambda config: getattr(config, name) >= least

    return {name: rule(name) for name in names}


RULES: dict[str, Rule] = {
    # its group norms have 32 groups
    "feature_size": ("a multiple of 32", lambda config: config.feature_size > 0 and config.feature_size % 32 == 0),
    # its sine positions are sines and cosines, of x and of y
    "hidden_dim": ("a multiple of 4", lambda config: config.hidden_dim > 0 and config.hidden_dim % 4 == 0),
    # the pixel decoder has maps of these strides and no others
    "common_stride": ("4 or 8", lambda config: config.common_stride in (4, 8)),
    "feature_strides": ("[4, 8, 16, 32]", lambda config: list(config.feature_strides) == [4, 8, 16, 32]),
    "activation_function": (
        "a name of transformers, e.g. relu, gelu, silu",
        lambda config: config.activation_function in ACT2FN,
    ),
    "ignore_value": ("0 to 65535", lambda config: 0 <= config.ignore_value <= 65535),
    "dropout": ("from 0 up to, not including, 1", lambda config: 0 <= config.dropout < 1),
    "importance_sample_ratio": ("0 to 1", lambda config: 0 <= config.importance_sample_ratio <= 1),
    **_at_least(1, "oversample_ratio", "mask_feature_size", "encoder_feedforward_dim", "encoder_layers"),
    **_at_least(1, "num_attention_heads", "dim_feedforward", "num_queries", "train_num_points"),
    **_at_least(2, "decoder_layers"),  # the first is the queries alone
    **_at_least(0, "no_object_weight", "class_weight", "mask_weight", "dice_weight", "init_std", "init_xavier_std"),
}
