"""Loads an EoMT of transformers from safetensors, and computes its logits, which is all that inference needs.

The modules are those of transformers. Its forward pass is not: that makes a mask of floats for every head, and a block
whose attention is plain takes over the mask of the block before it.
"""

from pathlib import Path
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    PretrainedConfig,
    PreTrainedModel,
)

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.eomt.modules import Eomt, EomtOnDinov3
from m2f_batch.models.eomt.rules import PROBABILITIES
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.predictions import QueryLogits

CLASSES: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig]]] = {
    "eomt": (EomtForUniversalSegmentation, EomtConfig),
    "eomt_dinov3": (EomtDinov3ForUniversalSegmentation, EomtDinov3Config),
}
NEVER_READ = ("criterion.", "embeddings.mask_token")  # the loss's, and a token that training of a backbone puts in


def load(directory: Path, config: JsonMapping, task: Task | None) -> PreTrainedModel:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    kind, config_kind = CLASSES[config["model_type"]]
    made = architecture_of(config_kind, config, "EoMT", **_rope(config))
    model = model_from_tensors(kind, made, directory, _is_never_read, renamed=current_tensors)
    # read once, since a look at a tensor on a GPU waits for all that was launched
    model.is_masked = tuple(value >= 1 for value in model.get_buffer(PROBABILITIES).tolist())
    return model


def _rope(config: JsonMapping) -> dict[str, JsonMapping]:
    """Translate the rotary positions of a config.json of transformers 4 for version 5."""
    if "rope_theta" not in config or config.get("rope_parameters"):
        return {}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]}}


def current_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors as transformers 5 does.

    Version 4 had gate and values of a SwiGLU as one matrix. Version 5 renames them for DINOv2, but not for EoMT, whose
    giant models would compute with random ones.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".mlp.weights_in." in name:
            for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
                found[name.replace("weights_in", part)] = half.clone()
        else:
            found[name.replace(".mlp.weights_out.", ".mlp.down_proj.")] = tensor
    return found


def _is_never_read(model: nn.Module, name: str) -> bool:
    return name.startswith(NEVER_READ)


def predict(model: nn.Module, pixel_values: Tensor) -> QueryLogits:
    """Turn pixel values [B, 3, S, S] into class logits [B, Q, C + 1] and mask logits [B, Q, h, w].

    Queries join the patches before the last blocks. In a block with masked attention each sees only the patches of its
    own mask so far (Kerssies et al. 2025, section 3.2).
    """
    eomt = cast(Eomt, model)
    positions = {"position_embeddings": eomt.rope_embeddings(pixel_values)} if _has_rope(eomt) else {}
    tokens = eomt.embeddings(pixel_values)
    first = len(eomt.layers) - len(eomt.is_masked)
    for at, layer in enumerate(eomt.layers):
        mask = None
        if at == first:
            tokens = torch.cat([eomt.query.weight.expand(len(tokens), -1, -1), tokens], 1)
        if at >= first and eomt.is_masked[at - first]:
            mask = _seen_by_queries(eomt, tokens)
        tokens = layer(tokens, attention_mask=mask, **positions)
    queries, patches = _parts(eomt, eomt.layernorm(tokens))
    return QueryLogits(eomt.class_predictor(queries), _mask_logits(eomt, queries, patches))


def _has_rope(model: Eomt) -> TypeGuard[EomtOnDinov3]:
    return hasattr(model, "rope_embeddings")


def _parts(model: Eomt, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Take the queries [B, Q, D] and the patches [B, D, h, w] from all tokens."""
    count = model.query.num_embeddings
    patches = tokens[:, count + model.embeddings.num_prefix_tokens :]
    return tokens[:, :count], patches.transpose(1, 2).reshape(len(tokens), -1, *model.grid_size)


def _mask_logits(model: Eomt, queries: Tensor, patches: Tensor) -> Tensor:
    return torch.einsum("bqc,bchw->bqhw", model.mask_head(queries), model.upscale_block(patches))


def _seen_by_queries(model: Eomt, tokens: Tensor) -> Tensor:
    """Mark what each token sees, bool [B, 1, N, N]: all, but for a query the patches outside of its mask."""
    queries, patches = _parts(model, model.layernorm(tokens))
    logits = nn.functional.interpolate(
        _mask_logits(model, queries, patches), size=model.grid_size, mode="bilinear", align_corners=False
    )
    seen = torch.ones((len(tokens), 1, tokens.shape[1], tokens.shape[1]), dtype=torch.bool, device=tokens.device)
    seen[:, 0, : queries.shape[1], -logits.shape[2] * logits.shape[3] :] = logits.flatten(2) > 0
    return seen
