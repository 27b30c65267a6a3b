"""Declares what is read of the MaskFormer of transformers, whose modules carry no types. No such module is made here.

Each class has the name of that of transformers, which ``structure.checked`` compares.
"""

from collections.abc import Sequence

from torch import nn

from m2f_batch.models.mask2former.modules import PyramidStep


class MaskFormerFPNConvLayer(nn.Module):
    """A convolution, its norm and an activation."""

    layers: PyramidStep


class MaskFormerFPNLayer(nn.Module):
    """One level of the pyramid."""

    proj: nn.Sequential
    block: MaskFormerFPNConvLayer


class MaskFormerFPNModel(nn.Module):
    """The feature pyramid."""

    stem: MaskFormerFPNConvLayer
    layers: Sequence[MaskFormerFPNLayer]


class MaskFormerPixelDecoder(nn.Module):
    """The feature pyramid and the mask features."""

    fpn: MaskFormerFPNModel
    mask_projection: nn.Conv2d


class MaskFormerPixelLevelModule(nn.Module):
    """The backbone and the pixel decoder."""

    encoder: nn.Module
    decoder: MaskFormerPixelDecoder


class MaskFormerModel(nn.Module):
    """Everything but the heads."""

    pixel_level_module: MaskFormerPixelLevelModule
    transformer_module: nn.Module


class MaskFormerForInstanceSegmentation(nn.Module):
    """The whole model."""

    model: MaskFormerModel
    class_predictor: nn.Linear
    mask_embedder: nn.Module
