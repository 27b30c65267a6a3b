"""Declares what is read of the Mask2Former of transformers, whose modules carry no types. No such module is made here.

Each class has the name of that of transformers, which ``structure.checked`` compares.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

LEVELS = 3  # of the pixel decoder, to which the queries attend in turn
# a Sequential of these
Projection = tuple[nn.Conv2d, nn.GroupNorm]
PyramidStep = tuple[nn.Conv2d, nn.GroupNorm, nn.Module]


class QueryOutput(Protocol):
    """The output of the whole model: class logits [B, Q, C + 1], mask logits [B, Q, h, w], and those of each layer."""

    class_queries_logits: Tensor
    masks_queries_logits: Tensor
    auxiliary_logits: Sequence[Mapping[str, Tensor]] | None


class Mask2FormerSinePositionEmbedding(nn.Module):
    """Sine positions of DETR."""

    normalize: bool
    scale: float
    temperature: int


class Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(nn.Module):
    """Deformable attention over all levels."""

    n_heads: int
    n_levels: int
    n_points: int
    sampling_offsets: nn.Linear
    attention_weights: nn.Linear
    value_proj: nn.Linear
    output_proj: nn.Linear


class Mask2FormerPixelDecoderEncoderLayer(nn.Module):
    """One encoder layer of the pixel decoder."""

    self_attn: Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention
    self_attn_layer_norm: nn.LayerNorm
    final_layer_norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    activation_fn: Callable[[Tensor], Tensor]


class Mask2FormerPixelDecoderEncoderOnly(nn.Module):
    """The encoder of the pixel decoder."""

    layers: Sequence[Mask2FormerPixelDecoderEncoderLayer]


class _PixelDecoder(nn.Module):
    """Projections of the coarse maps, and the encoder."""

    num_feature_levels: int
    num_fpn_levels: int
    input_projections: Sequence[Projection]
    level_embed: nn.Parameter
    encoder: Mask2FormerPixelDecoderEncoderOnly
    mask_projection: nn.Conv2d
    position_embedding: Mask2FormerSinePositionEmbedding


class Mask2FormerPixelDecoder(_PixelDecoder):
    """The pixel decoder, with a feature pyramid of convolution, norm and activation."""

    lateral_convolutions: Sequence[nn.Sequential]
    output_convolutions: Sequence[nn.Sequential]


class OneFormerPixelDecoder(_PixelDecoder):
    """The same of OneFormer, with other names."""

    lateral_convs: Sequence[nn.Sequential]
    output_convs: Sequence[nn.Sequential]


class Mask2FormerAttention(nn.Module):
    """Self-attention of the queries."""

    num_heads: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear


class Mask2FormerMaskedAttentionDecoderLayer(nn.Module):
    """One layer of the masked-attention decoder."""

    pre_norm: bool
    self_attn: Mask2FormerAttention
    self_attn_layer_norm: nn.LayerNorm
    cross_attn: nn.MultiheadAttention
    cross_attn_layer_norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    final_layer_norm: nn.LayerNorm
    activation_fn: nn.Module


class Mask2FormerMaskPredictor(nn.Module):
    """Mask embeddings of queries."""

    mask_embedder: nn.Module


class Mask2FormerMaskedAttentionDecoder(nn.Module):
    """All layers, with the norm before each prediction."""

    layers: Sequence[Mask2FormerMaskedAttentionDecoderLayer]
    layernorm: nn.LayerNorm
    mask_predictor: Mask2FormerMaskPredictor


class Mask2FormerTransformerModule(nn.Module):
    """The decoder, with its queries and the projections of its levels."""

    num_feature_levels: int
    position_embedder: Mask2FormerSinePositionEmbedding
    queries_embedder: nn.Embedding
    queries_features: nn.Embedding
    input_projections: Sequence[nn.Module]
    decoder: Mask2FormerMaskedAttentionDecoder
    level_embed: nn.Embedding


class Mask2FormerPixelLevelModule(nn.Module):
    """The backbone and the pixel decoder."""

    encoder: nn.Module
    decoder: Mask2FormerPixelDecoder


class Mask2FormerModel(nn.Module):
    """Everything but the class head."""

    pixel_level_module: Mask2FormerPixelLevelModule
    transformer_module: Mask2FormerTransformerModule


class Mask2FormerForUniversalSegmentation(nn.Module):
    """The whole model."""

    model: Mask2FormerModel
    class_predictor: nn.Linear
