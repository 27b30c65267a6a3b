"""Replaces deformable attention and linear layers of ``transformers`` by ones that train in less time.

They compute the same values and gradients with the same parameters.

On CPU in float32 torch sends products to MKL, which keeps to AVX2 on AMD; here they go to oneDNN, the gradients too.
Deformable attention adds up level by level, where ``transformers`` stacks the samples of all levels first.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from m2f_batch.models.fast_layers.linear import product, uses_onednn
from m2f_batch.models.fast_layers.positions import Size
from m2f_batch.models.fast_layers.structure import UnknownStructureError, affine, checked
from m2f_batch.models.mask2former.deformable import with_grid_sample
from m2f_batch.models.mask2former.modules import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as Attention,
)

PARAMETERS = affine("sampling_offsets", "attention_weights", "value_proj", "output_proj")


def use_fast_modules(model: nn.Module) -> list[str]:
    """Put fast parts into a Mask2Former of ``transformers``, and return notes where it is built otherwise."""
    notes = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ != Attention.__name__:
                continue
            try:
                setattr(parent, name, FastDeformableAttention(child))
            except (UnknownStructureError, AttributeError) as error:
                notes.append(f"{error}: training is slower than it could be")
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear  # its parameters, hooks and names stay as they are
    return notes[:1]


class FastLinear(nn.Linear):
    """A linear layer, by oneDNN where that is quicker."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """Turn [..., K] into [..., N]."""
        if not uses_onednn(input):
            return F.linear(input, self.weight, self.bias)
        # a view made within the function could not be changed in place, as some activations do
        rows: Tensor = _Product.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return rows.view(*input.shape[:-1], self.out_features)


class _Context(Protocol):
    """The values that torch keeps from the forward pass of ``_Product`` to the backward one."""

    saved_tensors: tuple[Tensor, Tensor]
    needs_input_grad: tuple[bool, bool, bool]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Product(torch.autograd.Function):
    """``product`` of x [M, K], with its gradients as products of the same kind."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        to_weight = to_bias = None
        if ctx.needs_input_grad[1]:
            # oneDNN is quickest with the shorter side first
            shorter = gradient.shape[1] <= x.shape[1]
            to_weight = product(gradient.T, x.T) if shorter else product(x.T, gradient.T).T.contiguous()
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(0)
        return to_x, to_weight, to_bias


class FastDeformableAttention(nn.Module):
    """``transformers``' deformable attention in the pixel decoder, with its parameters, attributes and arguments."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        attention = checked(module, Attention, PARAMETERS)
        self.n_heads, self.n_levels, self.n_points = attention.n_heads, attention.n_levels, attention.n_points
        self.sampling_offsets = attention.sampling_offsets
        self.attention_weights = attention.attention_weights
        self.value_proj = attention.value_proj
        self.output_proj = attention.output_proj

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: Sequence[tuple[int, int]] = (),
        level_start_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, None]:
        """Turn hidden states [B, N, C] into the same shape, and no attention weights.

        ``reference_points`` [B, N, L, 2] are x and y from 0 to 1. ``spatial_shapes_list`` are height and width of each
        level.
        """
        assert reference_points is not None
        queries = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        value = self.value_proj(encoder_hidden_states)
        if attention_mask is not None:
            value = value.masked_fill(attention_mask[..., None], 0.0)
        sizes: tuple[Size, ...] = tuple((int(height), int(width)) for height, width in spatial_shapes_list)
        samples = self._samples(queries, reference_points, sizes)
        attended = with_grid_sample(value.unflatten(2, (self.n_heads, -1)), samples, sizes)
        return self.output_proj(attended), None

    def _samples(self, queries: Tensor, reference_points: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Give x, y in pixels of the level and the attention's logit of each sample: [B, N, 3, H, L * P], float32."""
        shape = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(queries).unflatten(2, (*shape, 2)).to(reference_points.dtype)
        wide_tall = reference_points.new_tensor([(width, height) for height, width in sizes])
        places = (reference_points * wide_tall - 0.5)[:, :, None, :, None] + offsets
        logits = self.attention_weights(queries).unflatten(2, shape).to(places.dtype)
        return torch.cat([places.movedim(5, 2), logits[:, :, None]], dim=2).flatten(4)
