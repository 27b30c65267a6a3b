"""Declares what is read of the EoMT of transformers, whose modules carry no types. No such module is made here.

B images, N tokens: queries first, then a few of the backbone, then patches. D is their width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]
Rope = tuple[Tensor, Tensor]  # cosines and sines of the patches' positions


class Embeddings(Protocol):
    """Pixel values [B, 3, S, S] become tokens, of which ``num_prefix_tokens`` are no patches."""

    num_prefix_tokens: int

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Give the tokens [B, N, D]."""
        ...


class Layer(Protocol):
    """One block of the backbone, with rotary positions in a DINOv3."""

    def __call__(self, tokens: Tensor, *, attention_mask: Tensor | None, **positions: Rope) -> Tensor:
        """Give the tokens [B, N, D] of the next. The mask is bool [B, 1, N, N]."""
        ...


class Eomt(Protocol):
    """The whole model. ``is_masked`` is ours: whether attention is masked in each of the last blocks."""

    is_masked: tuple[bool, ...]
    grid_size: tuple[int, int]
    embeddings: Embeddings
    layers: Sequence[Layer]
    layernorm: Map
    query: nn.Embedding
    class_predictor: Map
    mask_head: Map
    upscale_block: Map


class EomtOnDinov3(Eomt, Protocol):
    """The model with rotary positions."""

    rope_embeddings: Callable[[Tensor], Rope]
