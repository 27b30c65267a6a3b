"""Makes the Mask2Former of transformers from a config.json of any version, loads it from safetensors, and runs it."""

from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.mask2former.modules import QueryOutput
from m2f_batch.models.predictions import QueryLogits

ENCODER = "model.pixel_level_module.encoder"


def load(directory: Path, config: JsonMapping, task: Task | None) -> Mask2FormerForUniversalSegmentation:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    architecture = architecture_of(Mask2FormerConfig, config, "Mask2Former")
    return model_from_tensors(Mask2FormerForUniversalSegmentation, architecture, directory, is_never_read)


def predict(model: nn.Module, pixel_values: Tensor) -> QueryLogits:
    """Run one forward pass of transformers' own modules."""
    # transformers forgets hidden states with use_auxiliary_loss: false, and crashes without them
    output = cast(QueryOutput, model(pixel_values=pixel_values, output_hidden_states=True))
    return QueryLogits(output.class_queries_logits, output.masks_queries_logits)


def is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    - criterion.*: class weights of the loss.
    - swin.layernorm.*: transformers 5 wraps a whole SwinModel as a backbone, with the norm of its last hidden state.
      A backbone gives the states of its stages, each with a norm of its own, so nobody takes that one. Version 4 had
      no such tensor.
    """
    is_swin = type(model.get_submodule(ENCODER)).__name__ == "SwinBackbone"
    is_last_norm = is_swin and name.startswith(f"{ENCODER}.swin.layernorm.")
    return is_last_norm or name.startswith("criterion.")
