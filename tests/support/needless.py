"""Finds what a forward pass computes and its logits do not need, as hidden states, auxiliary logits and losses are."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from m2f_batch.models.predictions import Predictor

Spoil = Callable[[Tensor], Tensor]
Call = tuple[str, str]  # the path of the innermost module, and the function of torch
HEAVY = (
    *("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum", "conv2d", "conv_transpose2d", "interpolate"),
    *("layer_norm", "group_norm", "batch_norm", "scaled_dot_product_attention", "multi_head_attention_forward"),
    *("softmax", "grid_sample", "adaptive_avg_pool2d", "embedding_bag", "conv1d"),
)
SPOILS = (Tensor.zero_, Tensor.normal_)  # a mask may be what either of them makes of it


class _Calls(TorchFunctionMode):
    """Keeps the tensors that heavy functions give, or spoils what one call gives."""

    def __init__(self, where: list[str], spoiled: int | None = None, spoil: Spoil = Tensor.zero_) -> None:
        super().__init__()
        self.where, self.spoiled, self.spoil = where, spoiled, spoil
        self.names: list[Call] = []
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in HEAVY or name == "__matmul__":
            output = given[0] if isinstance(given, tuple) else given
            if self.spoiled == len(self.names):
                self.spoil(output)
            self.names.append((self.where[-1], name))
            self.outputs.append(output)
        return given


def calls_of(model: Predictor, pixel_values: Tensor) -> tuple[list[Call], list[Call]]:
    """Run the model, and give all heavy calls, and those on whose outputs no logit depends.

    What has a gradient is needed. What has none, like the logits of an attention mask, is tried: is it spoiled, another
    result must come of it.
    """
    model, pixel_values = model.double().requires_grad_(True), pixel_values.double()  # oneDNN gives no gradients
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        calls, logits = _run(model, pixel_values)
        total = torch.stack([each.sum() for each in logits]).sum()
        kept = [each for each in calls.outputs if each.requires_grad]
        gradients = iter(torch.autograd.grad(total, kept, allow_unused=True))
    unsure = [at for at, each in enumerate(calls.outputs) if not each.requires_grad or next(gradients) is None]
    with torch.no_grad():
        needless = [at for at in unsure if all(_same(_run(model, pixel_values, at, to)[1], logits) for to in SPOILS)]
    return calls.names, [calls.names[at] for at in needless]


def _same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _run(
    model: Predictor, pixel_values: Tensor, spoiled: int | None = None, spoil: Spoil = Tensor.zero_
) -> tuple[_Calls, tuple[Tensor, ...]]:
    where = [""]
    hooks = [hook for name, module in model.named_modules() for hook in _followed(name, module, where)]
    calls = _Calls(where, spoiled, spoil)
    try:
        with calls:
            return calls, model(pixel_values).tensors
    finally:
        for hook in hooks:
            hook.remove()


def _followed(name: str, module: nn.Module, where: list[str]) -> Iterator[Any]:
    yield module.register_forward_pre_hook(lambda *_: where.append(name))
    yield module.register_forward_hook(lambda *_: where.__delitem__(-1))
