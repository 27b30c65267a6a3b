"""Declares what is read of the per-pixel models of transformers, whose modules carry no types. None is made here."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn


class Logits(Protocol):
    """The output of a whole model, [B, C, h, w]."""

    logits: Tensor


class PixelModel(Protocol):
    """A SegFormer or a BEiT."""

    def __call__(self, *, pixel_values: Tensor) -> Logits:
        """Run the whole model."""
        ...


class UperNet(Protocol):
    """A UperNet, whose head takes the feature maps of its backbone."""

    backbone: nn.Module
    decode_head: Callable[[Sequence[Tensor]], Tensor]


class States(Protocol):
    """The output of BEiT's backbone: what the embeddings and each block give, [B, 1 + patches, D]."""

    hidden_states: Sequence[Tensor]


class Backbone(Protocol):
    """The backbone of a BEiT."""

    def __call__(self, pixel_values: Tensor, *, output_hidden_states: bool) -> States:
        """Run all blocks."""
        ...


class BeitSettings(Protocol):
    """The config of a BEiT, as far as it is read."""

    patch_size: int
    out_indices: Sequence[int]


class Beit(Protocol):
    """A BEiT, whose neck makes four scales of four maps."""

    config: BeitSettings
    beit: Backbone
    fpn: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    decode_head: Callable[[Sequence[Tensor]], Tensor]
