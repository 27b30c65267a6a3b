"""Multiplies matrices, with their activation or residual in the same pass where oneDNN is there to do it.

On CPU in float32 torch sends ``linear`` to MKL, which keeps to AVX2 on AMD: oneDNN reaches more than twice its rate
there and as much elsewhere. The operator is the one that ``torch.compile`` itself makes of a linear layer.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN = bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
Activation = Literal["none", "relu", "gelu"]
ACTIVATIONS: dict[str, Activation] = {"Identity": "none", "ReLU": "relu", "GELUActivation": "gelu", "GELU": "gelu"}


def linear(x: Tensor, layer: nn.Linear, activation: Activation = "none", residual: Tensor | None = None) -> Tensor:
    """Compute ``activation(layer(x)) + residual`` for x [..., K] and residual [..., N]."""
    return product(x, layer.weight, layer.bias, activation, residual)


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Compute ``activation(x @ weight.T + bias) + residual`` for x [..., K], weight [N, K], residual like [..., N]."""
    if uses_onednn(x):
        fits = residual is not None and activation == "none" and residual.shape[:-1] == x.shape[:-1]
        # torch.compile takes the operator itself with constant weights only, and ours as it is
        onednn = _opaque_onednn if torch.compiler.is_compiling() else _onednn
        y = onednn(x, weight, bias, activation, residual if fits else None)
        return y if residual is None or fits else y + residual
    y = F.linear(x, weight, bias)
    if activation != "none":
        y = F.relu(y) if activation == "relu" else F.gelu(y)
    return y if residual is None else y + residual


def batched_product(x: Tensor, y: Tensor) -> Tensor:
    """Compute ``x @ y.mT`` for x [B, M, K] and y [B, N, K]: [B, M, N]."""
    if uses_onednn(x) and uses_onednn(y):
        return torch.stack([product(one, other) for one, other in zip(x, y, strict=True)])
    return x @ y.mT


def pixels_of(x: Tensor) -> Tensor:
    """Turn [B, C, H, W] into contiguous [B, H * W, C]: a view of what is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def map_of(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn [B, H * W, C] into channels-last [B, C, H, W]."""
    # through one dimension: a batch of one may carry a stride that hides the memory format from torch
    return pixels.reshape(-1).view(len(pixels), *size, pixels.shape[2]).permute(0, 3, 1, 2)


def join(*layers: nn.Linear) -> nn.Linear:
    """Make one layer of the same input that gives the outputs of all, one behind the other."""
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), layers[0].bias is not None)
    joined.weight = _frozen(torch.cat([layer.weight for layer in layers]))
    if joined.bias is not None:
        joined.bias = _frozen(torch.cat([layer.bias for layer in layers]))
    return joined


def layer_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a layer around a weight [N, K] and a bias [N]."""
    layer = nn.Linear(1, 1)
    layer.in_features, layer.out_features = weight.shape[1], weight.shape[0]
    layer.weight, layer.bias = _frozen(weight), _frozen(bias)
    return layer


def feed_forward(x: Tensor, first: nn.Linear, activation: nn.Module, second: nn.Linear, residual: Tensor) -> Tensor:
    """Compute ``second(activation(first(x))) + residual``."""
    known = ACTIVATIONS.get(type(activation).__name__)
    hidden = linear(x, first, known) if known else activation(linear(x, first))
    return linear(hidden, second, residual=residual)


def perceptron(x: Tensor, blocks: Iterable[nn.Module]) -> Tensor:
    """Run blocks of a layer and its activation each, one after the other."""
    for block in blocks:
        layer, activation = block.children()
        x = linear(x, layer, ACTIVATIONS[type(activation).__name__])  # type: ignore[arg-type]
    return x


def rows_at_once(rows: int, width: int, device: torch.device) -> int:
    """Say how many ``rows`` to take at a time through a computation ``width`` channels wide, row by row.

    On CPU as many as a cache holds, and as avoid fresh memory: the allocator returns blocks of more than 32 MiB to the
    system each time, and getting one costs a page fault every 4 KiB. Elsewhere all.
    """
    return max(1024, 2**21 // width) if device.type == "cpu" else max(1, rows)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


def uses_onednn(x: Tensor) -> bool:
    """Tell whether ``product`` leaves an input to oneDNN."""
    return ONEDNN and x.is_cpu and x.dtype == torch.float32 and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None) -> Tensor:
    operator = torch.ops.mkldnn._linear_pointwise
    if residual is not None:
        return operator.binary(x, residual, weight, bias, "add")
    return operator(x, weight, bias, activation, [], "none" if activation == "gelu" else "")


_opaque_onednn = torch.library.custom_op("m2f_batch::product", _onednn, mutates_args=())


@_opaque_onednn.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
