"""Declares what is read of the per-pixel models of transformers, whose modules carry no types. None is made here."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


class SegformerProjection(Protocol):
    """The projection of a stage's map."""

    proj: nn.Linear


class SegformerHead(Protocol):
    """The head of a SegFormer, which mixes the maps of all stages, coarsest first, by a convolution of one pixel."""

    linear_projections: Sequence[SegformerProjection]
    linear_fuse: nn.Conv2d
    batch_norm: Map
    activation: Map
    classifier: nn.Conv2d


class SegformerBackbone(Protocol):
    """The stages of a SegFormer, each with a map [B, C, h, w] of what the one before gave."""

    stages: Sequence[Map]


class Segformer(Protocol):
    """A SegFormer."""

    segformer: SegformerBackbone
    decode_head: SegformerHead


class UperHead(Protocol):
    """The head of UperNet, in UperNet itself and in BEiT. ``psp_forward`` takes the coarsest of the feature maps.

    ``fpn_bottleneck`` has a convolution of 3x3 pixels without a bias, a norm and an activation.
    """

    lateral_convs: Sequence[Map]
    fpn_convs: Sequence[Map]
    fpn_bottleneck: nn.Module
    classifier: Map

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Give the logits [B, C, h, w]."""
        ...

    def psp_forward(self, features: Sequence[Tensor]) -> Tensor:
        """Give the map of the coarsest level."""
        ...


class UperNet(Protocol):
    """A UperNet, whose head takes the feature maps of its backbone."""

    backbone: nn.Module
    decode_head: UperHead


class BeitPositionBias(Protocol):
    """The table of a bias, [distances, heads], for a grid of patches (rows, columns)."""

    window_size: tuple[int, int]
    relative_position_bias_table: nn.Parameter


class BeitLayer(Protocol):
    """One block of a BEiT. ``resolution`` is the canvas (Hc, Wc) in pixels."""

    def __call__(self, tokens: Tensor, *, attention_mask: Tensor | None, resolution: tuple[int, int]) -> Tensor:
        """Give the tokens [B, 1 + patches, D] of the next. The mask is added to what attention weighs."""
        ...


class PositionBias(Protocol):
    """The bias of attention by relative position, which all blocks of some BEiTs share."""

    def __call__(self, window_size: tuple[int, int], *, dim_size: int) -> Tensor:
        """Give the bias [1, heads, tokens, tokens] of a grid of patches (rows, columns)."""
        ...


class Backbone(Protocol):
    """The backbone of a BEiT, whose embeddings make tokens of pixel values."""

    embeddings: Callable[[Tensor], Tensor]
    shared_position_bias: PositionBias | None
    layers: Sequence[BeitLayer]


class BeitSettings(Protocol):
    """The config of a BEiT, as far as it is read."""

    patch_size: int
    out_indices: Sequence[int]


class Beit(Protocol):
    """A BEiT, whose neck makes four scales of four maps."""

    config: BeitSettings
    beit: Backbone
    fpn: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    decode_head: UperHead
