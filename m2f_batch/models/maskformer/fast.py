"""A loaded MaskFormer of transformers becomes a module that computes the same logits faster, for inference only."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from m2f_batch.models.fast_layers.backbones import fast_backbone
from m2f_batch.models.fast_layers.linear import batched_product, linear, perceptron, pixels_of, product
from m2f_batch.models.fast_layers.norm import group_norm_
from m2f_batch.models.fast_layers.staged import Staged, StagedForward, Tensors
from m2f_batch.models.fast_layers.structure import UnknownStructureError, affine, checked
from m2f_batch.models.mask2former.modules import Projection
from m2f_batch.models.maskformer.modules import (
    MaskFormerForInstanceSegmentation,
    MaskFormerFPNConvLayer,
    MaskFormerPixelDecoder,
)
from m2f_batch.models.maskformer.transformers_model import predict
from m2f_batch.models.predictions import QueryLogits

PYRAMID = {
    "fpn.stem.#.weight",
    "fpn.stem.#.bias",
    *affine("fpn.layers.#.proj.#", "fpn.layers.#.block.#", "mask_projection"),
}


class FastPyramid(nn.Module):
    """``transformers``' MaskFormerPixelDecoder, a feature pyramid (https://arxiv.org/abs/1612.03144)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        decoder = checked(module, MaskFormerPixelDecoder, PYRAMID)
        self.stem = cast(Projection, _block(decoder.fpn.stem))
        projections = nn.ModuleList(layer.proj for layer in decoder.fpn.layers)
        self.projections = cast("Sequence[Projection]", projections)
        blocks = nn.ModuleList(_block(layer.block) for layer in decoder.fpn.layers)
        self.blocks = cast("Sequence[Projection]", blocks)
        self.mask_projection = decoder.mask_projection

    def forward(self, features: Tensors) -> Tensors:
        """Turn feature maps, finest first, into the coarsest of them and the mask features [B, C, h, w]."""
        x = _convolved(self.stem, features[-1])
        for projection, block, feature in zip(self.projections, self.blocks, features[-2::-1], strict=True):
            conv, norm = projection
            size = (feature.shape[2], feature.shape[3])
            left = group_norm_(product(pixels_of(feature), conv.weight.flatten(1), conv.bias), norm, size)
            x = _convolved(block, left.add_(F.interpolate(x, size=size, mode="nearest")))
        return features[-1], self.mask_projection(x)


class FastQueries(nn.Module):
    """The decoder of ``transformers``' MaskFormer as it is, with the heads on its last states alone."""

    def __init__(self, model: MaskFormerForInstanceSegmentation) -> None:
        super().__init__()
        self.transformer = model.model.transformer_module
        self.class_predictor, self.embedder = model.class_predictor, model.mask_embedder

    def forward(self, features: Tensor, mask_features: Tensor) -> QueryLogits:
        """Turn the coarsest feature map and the mask features into class and mask logits."""
        queries = self.transformer(features.contiguous()).last_hidden_state
        masks = batched_product(perceptron(queries, self.embedder.children()), pixels_of(mask_features))
        logits = masks.view(*masks.shape[:2], *mask_features.shape[2:])
        return QueryLogits(linear(queries, self.class_predictor), logits)


def _block(block: MaskFormerFPNConvLayer) -> nn.ModuleList:
    """Take the convolution and the norm of a block that ends with ReLU."""
    conv, norm, activation = block.layers
    if type(activation) is not nn.ReLU:
        raise UnknownStructureError("the activation of the feature pyramid is not ReLU")
    return nn.ModuleList([conv, norm])


def _convolved(block: Projection, x: Tensor) -> Tensor:
    """Run a convolution, its norm and ReLU, in channels-last order."""
    conv, norm = block
    y = conv(x)
    return group_norm_(pixels_of(y), norm, (y.shape[2], y.shape[3])).relu_()


def _made(module: nn.Module) -> Staged:
    model = cast(MaskFormerForInstanceSegmentation, module)
    level = model.model.pixel_level_module
    return Staged(fast_backbone(level.encoder), FastPyramid(level.decoder), FastQueries(model))


FORWARD = StagedForward(
    "MaskFormer",
    _made,
    predict,
    lambda model: model.get_submodule("model.pixel_level_module"),
    lambda features, output: (features[-1], output.last_hidden_state),
)
