"""Random weights under which a model finds something: with those that it is made with, all queries and pixels agree."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def awaken(model: nn.Module, *, gain: float = 1.5) -> None:
    """Draw every matrix anew, so that each layer passes on what it is given."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=gain / max(weight[0].numel(), 1) ** 0.5)


@torch.no_grad()
def move_constants(model: nn.Module) -> None:
    """Move what is 0 or 1 in a new model: one that leaves it out has other logits then.

    Biases and running means move by up to 0.3, and weights of norms, layer scales and running variances by up to 30%.
    """
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        kind = name.rpartition(".")[2]
        if kind == "running_mean" or (values.dim() == 1 and kind.endswith("bias")):
            values.add_(torch.empty_like(values).uniform_(-0.3, 0.3))
        elif kind == "running_var" or (values.dim() == 1 and isinstance(values, nn.Parameter)):
            values.mul_(torch.empty_like(values).uniform_(0.7, 1.3))


@torch.no_grad()
def tell_apart(head: nn.Linear | nn.Conv2d, run: Callable[[], Any], *, spread: float = 4.0) -> None:
    """Have each class of a head vary by ``spread`` around 0 over what it sees in one run."""
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run()
    hook.remove()
    values = seen[-1].flatten(0, -2) if isinstance(head, nn.Linear) else seen[-1].movedim(1, -1).flatten(0, -2)
    scale = spread / values.std(0)
    assert head.bias is not None
    head.bias.sub_(values.mean(0)).mul_(scale)
    head.weight.mul_(scale.view(-1, *[1] * (head.weight.dim() - 1)))
