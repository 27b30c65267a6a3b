"""Declares what is read of the OneFormer of transformers, whose modules carry no types. No such module is made here.

B images, Q queries, C classes, (h, w) the size of the logits.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


class LevelOutput(Protocol):
    """The output of the pixel decoder: three maps, coarsest first, and the mask features."""

    decoder_features: Sequence[Tensor]
    decoder_last_feature: Tensor


class TransformerOutput(Protocol):
    """The class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of the last layer."""

    prediction_class: Tensor
    prediction_masks: Tensor


class DecoderLayer(Protocol):
    """One layer of the decoder, which looks at one of three levels. Features and positions are [N, B, D]."""

    def __call__(
        self,
        *,
        index: int,
        output: Tensor,
        multi_stage_features: Sequence[Tensor],
        multi_stage_positional_embeddings: Sequence[Tensor],
        attention_mask: Tensor,
        query_embeddings: Tensor,
    ) -> tuple[Tensor]:
        """Give the queries [Q, B, D] of the next. The mask [B * heads, Q, N] is true where none looks."""
        ...


class QueryTransformer(Protocol):
    """The layers that make the first queries of an image."""

    def __call__(
        self, features: Tensor, mask: None, queries: Tensor, positions: Tensor, task_token: Tensor | None
    ) -> Sequence[Tensor]:
        """Give them, [1, B, Q - 1, D]."""
        ...


class OneFormerTransformerDecoder(Protocol):
    """The decoder, whose heads predict classes and masks of normed queries."""

    use_task_norm: bool
    num_heads: int
    num_feature_levels: int
    query_transformer: QueryTransformer
    query_input_projection: Map
    layers: Sequence[DecoderLayer]
    decoder_norm: Map
    class_embed: Map
    mask_embed: Map


class Transformer(Protocol):
    """All behind the pixel decoder."""

    decoder: nn.Module

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
