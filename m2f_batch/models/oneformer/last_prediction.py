"""The decoder of OneFormer, less what only its training reads: the classes and masks of each layer but the last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from m2f_batch.models.oneformer.modules import OneFormer, OneFormerTransformerDecoder


@dataclass(frozen=True)
class Last:
    """The class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of the last layer."""

    prediction_class: Tensor
    prediction_masks: Tensor


class LastPrediction(nn.Module):
    """``transformers``' OneFormerTransformerDecoder, equal to the bit.

    The masks of each layer are still made, because the next one looks where they are. They are kept no longer: ten of
    them are 400 MB for each image at 800 x 1333 pixels and 150 queries.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.of = decoder

    def forward(
        self,
        *,
        task_token: Tensor,
        multi_stage_features: Sequence[Tensor],
        multi_stage_positional_embeddings: Sequence[Tensor],
        mask_features: Tensor,
        query_features: Tensor,
        query_embeddings: Tensor,
        query_embedder: nn.Embedding,
        size_list: Sequence[Sequence[int]],
        output_attentions: bool = False,
    ) -> Last:
        """Run all layers. Features and positions of the levels are [N, B, D], the task's token [1, B, D]."""
        if output_attentions:
            raise NotImplementedError("attentions are not kept")
        of = cast(OneFormerTransformerDecoder, self.of)
        task_token = of.decoder_norm(task_token) if of.use_task_norm else task_token
        token_or_none = task_token if of.use_task_norm else None
        placed = of.query_input_projection(mask_features)
        first = of.query_transformer(query_features, None, query_embedder.weight[:-1], placed, token_or_none)[0]
        queries = torch.cat([first.permute(1, 0, 2), task_token])
        for index, layer in enumerate(of.layers):
            masks = self._masks(of.decoder_norm(queries).transpose(0, 1), mask_features)
            (queries,) = layer(
                index=index,
                output=queries,
                multi_stage_features=multi_stage_features,
                multi_stage_positional_embeddings=multi_stage_positional_embeddings,
                attention_mask=_hidden(masks, size_list[index % of.num_feature_levels], of.num_heads),
                query_embeddings=query_embeddings,
            )
            del masks
        normed = of.decoder_norm(queries).transpose(0, 1)
        return Last(of.class_embed(normed), self._masks(normed, mask_features))

    def _masks(self, normed: Tensor, mask_features: Tensor) -> Tensor:
        embedded = cast(OneFormerTransformerDecoder, self.of).mask_embed(normed)
        return torch.einsum("bqc,bchw->bqhw", embedded, mask_features)


def _hidden(masks: Tensor, size: Sequence[int], heads: int) -> Tensor:
    """Tell each head where it must not look, [B * heads, Q, N]."""
    resized = interpolate(masks, size=tuple(size), mode="bilinear", align_corners=False)
    return (resized.sigmoid().flatten(2) < 0.5).repeat_interleave(heads, 0)


def with_last_prediction(model: OneFormer) -> None:
    """Put it in the place of the decoder of a model that is not trained."""
    transformer = model.model.transformer_module
    transformer.decoder = LastPrediction(transformer.decoder)
