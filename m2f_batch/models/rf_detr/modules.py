"""Declares what is read of the RF-DETR-Seg of transformers, whose modules carry no types. No such module is made here.

B images, Q queries, D their width, C classes.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Decoded(Protocol):
    """The queries [B, Q, D] behind the last layer, and the features [B, D, h, w] that masks are made of."""

    last_hidden_state: Tensor
    backbone_features: Tensor


class Detector(Protocol):
    """The part that finds boxes."""

    model: Callable[[Tensor], Decoded]
    class_embed: Map


class RfDetr(Protocol):
    """The whole model."""

    model: Detector
    downsample_ratio: int
    blocks: Iterable[Map]
    spatial_features_proj: Map

    def get_mask_logits(self, query_features: Tensor, spatial_features: Tensor) -> Tensor:
        """Give the mask logits [B, Q, h, w]."""
        ...
