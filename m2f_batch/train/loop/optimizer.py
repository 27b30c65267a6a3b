"""Builds AdamW as the paper uses it: a slower backbone, no decay on norms and embeddings.

Paper, section 4.1 ("Training settings"), and ``build_optimizer`` of its code.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

# parameters that are tables of positions, levels or tokens without being an nn.Embedding
TABLES = re.compile(r"relative_position_bias_table|(absolute_)?pos(ition)?_embed|level_embed|cls_token|mask_token")


def new_optimizer(
    model: nn.Module, *, backbone: str, learning_rate: float, backbone_multiplier: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters of a model that are not frozen, in up to four groups. ``backbone`` names its module.

    Each group holds its rate at the peak of the schedule as ``initial_lr`` (torch's word), and its ``name``.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    undecayed = set(undecayed_parameters(model))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(f"{backbone}."), name in undecayed), []).append(parameter)
    settings: list[dict[str, Any]] = []
    for (is_backbone, plain), parameters in sorted(groups.items()):
        peak = learning_rate * (backbone_multiplier if is_backbone else 1.0)
        settings.append(
            {
                "params": parameters,
                "lr": peak,
                "initial_lr": peak,
                "weight_decay": 0.0 if plain else weight_decay,
                "name": f"{'backbone' if is_backbone else 'rest'}{', no decay' if plain else ''}",
            }
        )
    return torch.optim.AdamW(settings, betas=(0.9, 0.999), eps=1e-8)


def undecayed_parameters(model: nn.Module) -> Iterator[str]:
    """Yield the names of parameters without weight decay: of norms, of embeddings, and tables of positions."""
    for prefix, module in model.named_modules():
        of_a_kind = isinstance(module, nn.Embedding) or _is_norm(module)
        for name, _ in module.named_parameters(recurse=False):
            if of_a_kind or TABLES.search(name):
                yield f"{prefix}.{name}" if prefix else name


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm layer, of torch, transformers or timm."""
    return any("Norm" in kind.__name__ for kind in type(module).__mro__)
