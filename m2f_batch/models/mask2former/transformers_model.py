"""Makes the Mask2Former of transformers from a config.json of any version, loads it from safetensors, and runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f_batch.errors import UsageError
from m2f_batch.models.backbone_configs import current_config
from m2f_batch.models.config_classes import backbone_of, parameters_of
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.predictions import QueryLogits

ENCODER = "model.pixel_level_module.encoder"


def load(directory: Path, config: Mapping[str, Any]) -> Mask2FormerForUniversalSegmentation:
    """The model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    return model_from_tensors(Mask2FormerForUniversalSegmentation, architecture_of(config), directory, is_never_read)


def predict(model: nn.Module, pixel_values: Tensor) -> QueryLogits:
    """Run one forward pass of transformers' own modules."""
    # transformers forgets hidden states with use_auxiliary_loss: false, and crashes without them
    output = model(pixel_values=pixel_values, output_hidden_states=True)
    return QueryLogits(output.class_queries_logits, output.masks_queries_logits)


def architecture_of(config: Mapping[str, Any]) -> Mask2FormerConfig:
    """The architecture and the labels of a checked config.json, as version 4 or 5 wrote it.

    Only parameters of the architecture are taken. All else that versions wrote, tens of kilobytes of what every model
    has, and whatever anybody added, is not read. Raises UsageError when transformers refuses it.
    """
    tree = current_config(config)
    backbone = tree.get("backbone_config")
    taken = parameters_of(Mask2FormerConfig, {name: value for name, value in tree.items() if name != "backbone_config"})
    try:
        made = Mask2FormerConfig(backbone_config=None if backbone is None else backbone_of(backbone), **taken)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"no Mask2Former can be made of its config.json ({reason})", field="model.uri") from None
    made.id2label = {int(i): str(name) for i, name in tree["id2label"].items()}
    made.label2id = {name: i for i, name in made.id2label.items()}
    return made


def is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    - criterion.*: class weights of the loss.
    - swin.layernorm.*: transformers 5 wraps a whole SwinModel as a backbone, with the norm of its last hidden state.
      A backbone gives the states of its stages, each with a norm of its own, so nobody takes that one. Version 4 had
      no such tensor.
    - num_batches_tracked: batch norms count with it while they train.
    """
    is_swin = type(model.get_submodule(ENCODER)).__name__ == "SwinBackbone"
    is_last_norm = is_swin and name.startswith(f"{ENCODER}.swin.layernorm.")
    return is_last_norm or name.startswith("criterion.") or name.endswith(".num_batches_tracked")
