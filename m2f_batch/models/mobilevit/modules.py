"""Declares what is read of both MobileViTs of transformers, whose modules carry no types. None is made here."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Encoded(Protocol):
    """The output of an encoder."""

    last_hidden_state: Tensor


class Network(Protocol):
    """The network of MobileViT below its head."""

    conv_stem: Map
    encoder: Callable[[Tensor], Encoded]


class MobileViT(Protocol):
    """The whole model, whose head takes the features of every stage, and uses the last."""

    mobilevit: Network
    segmentation_head: Callable[[Sequence[Tensor]], Tensor]


class AttentionLayer(Protocol):
    """A layer of MobileViTv2 that attends among the pixels of equal place in their patches."""

    patch_height: int
    downsampling_layer: Map
    conv_kxk: Map
    conv_1x1: Map
    unfolding: Callable[[Tensor], tuple[Tensor, tuple[int, int]]]
    transformer: Map
    layernorm: Map
    folding: Callable[[Tensor, tuple[int, int]], Tensor]
    conv_projection: Map


class SecondEncoder(Protocol):
    """The layers of MobileViTv2, of which some are an AttentionLayer."""

    layer: Sequence[Map]


class SecondNetwork(Protocol):
    """The network of MobileViTv2 below its head."""

    conv_stem: Map
    encoder: SecondEncoder


class SecondConfig(Protocol):
    """The parameters of MobileViTv2."""

    output_stride: int


class MobileViTV2(Protocol):
    """The whole model."""

    config: SecondConfig
    mobilevitv2: SecondNetwork
    segmentation_head: Callable[[Sequence[Tensor]], Tensor]
