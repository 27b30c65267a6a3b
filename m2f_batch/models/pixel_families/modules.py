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
