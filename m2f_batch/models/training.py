"""A family tells here how its models are trained, with no loss and no loop: those are in ``train``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from m2f_batch.models.predictions import Prediction


@dataclass(frozen=True)
class Training:
    """The way in which the models of a family are trained. A model is always the network of ``transformers``.

    - ``family`` is its name for people, and ``objective`` the module of ``train/objective`` that computes its loss.
    - ``backbone`` is the name of the module that is pretrained elsewhere, ``backbone_kinds`` are the model_types that
      it may have, and ``strides`` those of the feature maps that the family takes from it.
    - ``recomputed`` are lists of modules whose activations may be computed again, beside those of the backbone.
    - ``heads`` are tensors with a row for each label and one more for no object, ``queries`` those with a row for each
      query, and ``derived`` those that follow from the labels.
    - ``current_config(config)`` is a checked config.json of any version as ``new_config`` wants it.
    - ``new_config(changes, base)`` is the configuration of a new model: ``model.config`` over a config.json, or over
      the defaults. Raises UsageError, with one line per mistake.
    - ``new_model(config)`` has random weights. Raises what torch and transformers raise for what cannot be built.
    - ``outputs(model, pixel_values)`` are the predictions of every layer, first to last.
    - ``use_fast_modules(model)`` puts parts into the model that compute the same faster, and returns notes.
    """

    family: str
    objective: str
    backbone: str
    backbone_kinds: tuple[str, ...]
    strides: tuple[int, ...]
    recomputed: tuple[str, ...]
    heads: tuple[str, ...]
    queries: tuple[str, ...]
    derived: tuple[str, ...]
    current_config: Callable[[Mapping[str, Any]], dict[str, Any]]
    new_config: Callable[[Mapping[str, Any], Mapping[str, Any] | None], PretrainedConfig]
    new_model: Callable[[PretrainedConfig], PreTrainedModel]
    outputs: Callable[[nn.Module, Tensor], Sequence[Prediction]]
    use_fast_modules: Callable[[nn.Module], list[str]]
