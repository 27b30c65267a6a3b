"""Makes the MaskFormer of transformers from a config.json of any version, loads it from safetensors, and runs it."""

from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, PretrainedConfig

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of, parameters_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.mask2former.modules import QueryOutput
from m2f_batch.models.predictions import QueryLogits

ENCODER = "model.pixel_level_module.encoder"
DECODER_KEYS = ("d_model", "num_queries", "activation_function", "decoder_layers", "decoder_ffn_dim")


def load(directory: Path, config: JsonMapping, task: Task | None) -> MaskFormerForInstanceSegmentation:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    made = architecture_of(
        MaskFormerConfig,
        config,
        "MaskFormer",
        decoder_config=_decoder_of(config.get("decoder_config") or {}),
        use_auxiliary_loss=False,  # else classes and masks of every layer are computed
        output_auxiliary_logits=False,
    )
    return model_from_tensors(MaskFormerForInstanceSegmentation, made, directory, is_never_read)


def _decoder_of(tree: JsonMapping) -> PretrainedConfig:
    """Configure the part of DETR that MaskFormer has: its decoder.

    ``auxiliary_loss`` is left out. With it transformers gives each layer the normed states of the one before, which
    neither DETR nor MaskFormer does (mask_former/modeling/transformer/transformer.py, ``TransformerDecoder``).
    """
    names = (*DECODER_KEYS, "decoder_attention_heads", "encoder_attention_heads")
    taken = parameters_of(DetrConfig, {name: tree[name] for name in names if name in tree})
    return DetrConfig(**taken)


def predict(model: nn.Module, pixel_values: Tensor) -> QueryLogits:
    """Run one forward pass of transformers' own modules."""
    output = cast(QueryOutput, model(pixel_values=pixel_values))
    return QueryLogits(output.class_queries_logits, output.masks_queries_logits)


def is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    - criterion.*: class weights of the loss.
    - model.layernorm.* of a Swin: the norm of its last hidden state, where a backbone gives those of its stages.
    - relative_position_index: it follows from the size of the windows.
    """
    is_last_norm = name.startswith(f"{ENCODER}.model.layernorm.")
    return is_last_norm or name.endswith(".relative_position_index") or name.startswith("criterion.")
