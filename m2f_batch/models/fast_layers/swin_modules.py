"""Declares what is read of the Swin of transformers, whose modules carry no types. No such module is made here.

Each class has the name of that of transformers, which ``structure.checked`` compares.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class SwinPatchEmbeddings(nn.Module):
    """The patches of an image, by a convolution."""

    patch_size: tuple[int, int]


class SwinEmbeddings(nn.Module):
    """Pixel values to embedded patches, and how many there are, down and across."""

    patch_embeddings: SwinPatchEmbeddings


class SwinRelativePositionBias(nn.Module):
    """The bias of each head for each pair of places in a window, [1, heads, S * S, S * S]."""


class SwinAttention(nn.Module):
    """Attention within windows."""

    num_attention_heads: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    relative_position_bias: SwinRelativePositionBias


class SwinMLP(nn.Module):
    """The feed-forward network of a block."""

    fc1: nn.Linear
    fc2: nn.Linear
    activation_fn: nn.Module


class SwinLayer(nn.Module):
    """One block."""

    attention: SwinAttention
    window_size: int
    shift_size: int
    layernorm_before: nn.LayerNorm
    layernorm_after: nn.LayerNorm
    mlp: SwinMLP


class SwinPatchMerging(nn.Module):
    """Four neighbors to one pixel."""

    norm: nn.LayerNorm
    reduction: nn.Linear


class SwinStage(nn.Module):
    """Blocks of one resolution, and the way to the next one."""

    blocks: Sequence[SwinLayer]
    downsample: SwinPatchMerging | None


class SwinEncoder(nn.Module):
    """All stages."""

    layers: Sequence[SwinStage]


class SwinModel(nn.Module):
    """Embeddings and stages."""

    embeddings: SwinEmbeddings
    encoder: SwinEncoder


class SwinBackbone(nn.Module):
    """Swin as a backbone: the norms are those of the stages asked for, by the stage's name."""

    swin: SwinModel
    hidden_states_norms: nn.ModuleDict
    stage_names: Sequence[str]


class Dense(nn.Module):
    """A module around one linear layer, as MaskFormer's Swin has several."""

    dense: nn.Linear


class MaskFormerSwinIntermediate(Dense):
    """The first layer of the feed-forward network, with its activation."""

    intermediate_act_fn: nn.Module


class MaskFormerSwinSelfAttention(nn.Module):
    """Attention within windows, of the Swin that transformers has for MaskFormer alone."""

    num_attention_heads: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    relative_position_bias_table: Tensor
    relative_position_index: Tensor


class MaskFormerSwinAttention(nn.Module):
    """Attention with its output projection."""

    self: MaskFormerSwinSelfAttention
    output: Dense


class MaskFormerSwinLayer(nn.Module):
    """One block."""

    attention: MaskFormerSwinAttention
    window_size: int
    shift_size: int
    layernorm_before: nn.LayerNorm
    layernorm_after: nn.LayerNorm
    intermediate: MaskFormerSwinIntermediate
    output: Dense


class MaskFormerSwinStage(nn.Module):
    """Blocks of one resolution, and the way to the next one."""

    blocks: Sequence[MaskFormerSwinLayer]
    downsample: SwinPatchMerging | None


class MaskFormerSwinEncoder(nn.Module):
    """All stages."""

    layers: Sequence[MaskFormerSwinStage]


class MaskFormerSwinModel(nn.Module):
    """Embeddings and stages."""

    embeddings: SwinEmbeddings
    encoder: MaskFormerSwinEncoder


class MaskFormerSwinBackbone(nn.Module):
    """The Swin of MaskFormer as a backbone: a norm for each stage, of which some are asked for."""

    model: MaskFormerSwinModel
    hidden_states_norms: Sequence[nn.Module]
    stage_names: Sequence[str]
    out_features: Sequence[str]
