"""Declares what is read of the OneFormer of transformers, whose modules carry no types. No such module is made here.

B images, Q queries, C classes, (h, w) the size of the logits.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class LevelOutput(Protocol):
    """The output of the pixel decoder: three maps, coarsest first, and the mask features."""

    decoder_features: Sequence[Tensor]
    decoder_last_feature: Tensor


class TransformerOutput(Protocol):
    """The class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of the last layer."""

    prediction_class: Tensor
    prediction_masks: Tensor


class Transformer(Protocol):
    """All behind the pixel decoder."""

    def __call__(
        self, *, multi_scale_features: Sequence[Tensor], mask_features: Tensor, task_token: Tensor
    ) -> TransformerOutput:
        """Run all layers."""
        ...


class Parts(Protocol):
    """The parts of the model. The task encoder takes token ids [B, length]."""

    pixel_level_module: Callable[[Tensor], LevelOutput]
    task_encoder: Callable[[Tensor], Tensor]
    transformer_module: Transformer


class Config(Protocol):
    """The parameters that are read."""

    task_seq_len: int


class OneFormer(Protocol):
    """The whole model."""

    config: Config
    model: Parts
