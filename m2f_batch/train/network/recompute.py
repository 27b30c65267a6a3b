"""Activations of a part are computed again in the backward pass instead of being kept (activation checkpointing).

Layers that train faster are in their family's folder: ``models/mask2former/fast_training``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from m2f_batch.models.training import Training
from m2f_batch.train.network.freezing import batch_norms


def recompute_activations(model: nn.Module, training: Training) -> list[str]:
    """Make a model recompute, and return the names of the parts that do. Values stay the same."""
    parts = list(_parts(model, training))
    for _, module in parts:
        module.forward = partial(_recomputed, module, module.forward)
    return [name for name, _ in parts]


def _parts(model: nn.Module, training: Training) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules worth recomputing: not one within another."""
    yield from _stages(training.backbone, model.get_submodule(training.backbone))
    for layers in training.recomputed:
        yield from ((f"{layers}.{index}", layer) for index, layer in model.get_submodule(layers).named_children())


def _stages(prefix: str, backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost lists of at least two modules: stages, or blocks where stages are no modules."""
    for name, child in backbone.named_children():
        place = f"{prefix}.{name}"
        holders = [(f"{place}.{key}", part) for key, part in child.named_children() if _is_worth_it(part)]
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential) and len(holders) > 1:
            yield from holders
        else:
            yield from _stages(place, child)


def _is_worth_it(module: nn.Module) -> bool:
    """Tell whether a module has parameters, and in modules of its own. A single norm has not."""
    return next(module.parameters(), None) is not None and next(module.children(), None) is not None


def _recomputed(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = partial(_contexts, module)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return a context for the forward pass, and one for the pass that repeats it."""
    return nullcontext(), _same_statistics(module)


@contextmanager
def _same_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms compute as in training, but do not take the same batch into their statistics a second time."""
    norms = batch_norms(module)
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None  # type: ignore[assignment]
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
