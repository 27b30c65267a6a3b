"""Parameters are frozen, and norms keep their statistics, as settings ask.

Layers that train faster are in their family's folder: ``models/mask2former/fast_training``.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2f_batch.errors import UsageError
from m2f_batch.models.training import Training


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters whose name fits one of the patterns (``*`` for any text), and return their names.

    Raises UsageError for a pattern that fits none, and when nothing would be left to train.
    """
    frozen: list[str] = []
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise UsageError(
                "fits no parameter",
                field="train.freeze",
                value=pattern,
                allowed=(
                    "names of parameters, * for any text, e.g. "
                    f"{names[0].rpartition('.')[0].split('.embeddings')[0]}.* or {names[-1]}"
                ),
            )
        frozen += fitting
    if set(frozen) == set(names):
        raise UsageError("leaves no parameter to train", field="train.freeze", value=list(patterns))
    _stop(model, frozen)
    return sorted(set(frozen))


def freeze_unused(model: nn.Module, training: Training) -> list[str]:
    """Freeze the parameters that no loss ever gives a gradient, and return their names.

    With Swin it is ``layernorm`` of the backbone. DDP would wait for their gradients. They are found by one backward
    pass over a small blank image.
    """
    parameters = dict(model.named_parameters())
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    grads = {name: parameter.grad for name, parameter in parameters.items()}
    is_training, reference = model.training, next(iter(parameters.values()))
    try:
        model.eval()  # batch norms keep their statistics, and nothing is dropped
        for parameter in parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        blank = torch.zeros(1, 3, 64, 64, dtype=reference.dtype, device=reference.device)
        tensors = [tensor for output in training.outputs(model, blank) for tensor in output.tensors]
        torch.stack([tensor.sum() for tensor in tensors]).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
        unused = [name for name, parameter in parameters.items() if parameter.grad is None]
    finally:
        model.train(is_training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
            parameter.grad = grads[name]
    _stop(model, unused)
    return unused


def freeze_batch_norms(model: nn.Module) -> list[str]:
    """Freeze scale and shift of all batch norms, and return their names. ``train_mode`` keeps the statistics.

    As in the paper's ResNets: estimates from the few images of one rank would be worse, and the gradients would depend
    on how a batch is spread over ranks.
    """
    norms = {id(norm) for norm in batch_norms(model)}
    names = [
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if id(module) in norms
        for name, _ in module.named_parameters(recurse=False)
    ]
    _stop(model, names)
    return names


def train_mode(model: nn.Module, *, keep_batch_norms: bool) -> None:
    """Put a model into training mode, batch norms with their statistics as they are where that is asked."""
    model.train()
    if keep_batch_norms:
        for module in batch_norms(model):
            module.eval()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return all batch norms of a model that have statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def _stop(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
