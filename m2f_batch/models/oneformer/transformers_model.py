"""Makes the OneFormer of transformers from a config.json of any version, loads it from safetensors, and runs it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.oneformer.last_prediction import with_last_prediction
from m2f_batch.models.oneformer.modules import OneFormer
from m2f_batch.models.predictions import QueryLogits

# "the task is semantic", "... instance", "... panoptic" in the byte pairs of CLIP, between its marks of begin and end
TASK_IDS: Mapping[Task, tuple[int, ...]] = {
    "semantic": (49406, 518, 10549, 533, 29119, 1550, 49407),
    "instance": (49406, 518, 10549, 533, 34572, 49407),
    "panoptic": (49406, 518, 10549, 533, 1072, 24755, 49407),
}
# what is said of a task when no run is meant: a model is only looked at
ANY_TASK: Task = "panoptic"
# what only training has, and what is the same in every model
UNUSED = ("criterion.", "model.text_mapper.")


class TaskDecoder(nn.Module):
    """All behind the pixel decoder, told one task, always the same."""

    task_ids: Tensor

    def __init__(self, model: OneFormer, task: Task) -> None:
        super().__init__()
        self.task_encoder, self.transformer = model.model.task_encoder, model.model.transformer_module
        self.register_buffer("task_ids", task_ids(task, model.config.task_seq_len), persistent=False)

    def forward(self, *given: Tensor) -> QueryLogits:
        """Turn three maps, coarsest first, and the mask features into class logits and mask logits."""
        *maps, mask_features = given
        token = self.task_encoder(self.task_ids.repeat(len(mask_features), 1))
        output = self.transformer(multi_scale_features=maps, mask_features=mask_features, task_token=token)
        return QueryLogits(output.prediction_class, output.prediction_masks)


class OneFormerForTask(nn.Module):
    """A OneFormer that is told one task, always the same."""

    def __init__(self, model: OneFormer, task: Task) -> None:
        super().__init__()
        self.model, self.decoder = model, TaskDecoder(model, task)

    def forward(self, pixel_values: Tensor) -> QueryLogits:
        """Turn pixel values [B, 3, Hc, Wc] into class logits [B, Q, C + 1] and mask logits [B, Q, h, w]."""
        level = self.model.model.pixel_level_module(pixel_values)
        prediction: QueryLogits = self.decoder(*level.decoder_features, level.decoder_last_feature)
        return prediction


def task_ids(task: Task, length: int) -> Tensor:
    """Give the token ids of a task's text, [1, length], as numbers for the task encoder. Zeros fill the rest."""
    ids = torch.zeros((1, length), dtype=torch.float32)
    ids[0, : len(TASK_IDS[task])] = torch.tensor(TASK_IDS[task], dtype=torch.float32)
    return ids


def load(directory: Path, config: JsonMapping, task: Task | None) -> OneFormerForTask:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    made = architecture_of(
        OneFormerConfig,
        config,
        "OneFormer",
        is_training=False,  # else it wants texts, and drops out
        use_auxiliary_loss=False,
        output_auxiliary_logits=False,
    )
    model = model_from_tensors(OneFormerForUniversalSegmentation, made, directory, is_never_read)
    with_last_prediction(model)
    return OneFormerForTask(model, task or ANY_TASK)


def predict(model: nn.Module, pixel_values: Tensor) -> QueryLogits:
    """Run one forward pass of transformers' own modules."""
    assert isinstance(model, OneFormerForTask)
    prediction: QueryLogits = model(pixel_values)
    return prediction


def is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    - criterion.*: class weights and the temperature of the loss.
    - swin.layernorm.* of a Swin: the norm of its last hidden state, where a backbone gives those of its stages.
    """
    is_last_norm = ".pixel_level_module.encoder.swin.layernorm." in name
    return is_last_norm or name.startswith(UNUSED)
