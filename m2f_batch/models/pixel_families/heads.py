"""Runs the heads of per-pixel models faster than transformers does, with its own modules: SegFormer's and UperNet's."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from m2f_batch.models.fast_layers.enlarged import convolved, enlarged
from m2f_batch.models.fast_layers.linear import map_of, pixels_of, product
from m2f_batch.models.pixel_families.modules import SegformerHead, UperHead


def segformer_logits(head: SegformerHead, states: Sequence[Tensor]) -> Tensor:
    """Turn the maps of four stages, finest first, into logits [B, C, h, w].

    Each stage is projected, enlarged, and mixed with the others by one more matrix (``linear_fuse``). Here the two
    matrices of a stage are multiplied first, and what they give is enlarged.
    """
    size = (states[0].shape[2], states[0].shape[3])
    parts = head.linear_fuse.weight.flatten(1).chunk(len(states), 1)[::-1]
    maps = []
    for state, layer, part in zip(states, head.linear_projections, parts, strict=True):
        pixels = product(pixels_of(state), part @ layer.proj.weight, part @ layer.proj.bias)
        maps.append(map_of(pixels, (state.shape[2], state.shape[3])))
    total = maps[0]
    for each in maps[1:]:
        total += enlarged(each, size)
    pixels = pixels_of(head.activation(head.batch_norm(total)))
    return map_of(product(pixels, head.classifier.weight.flatten(1), head.classifier.bias), size).contiguous()


def upernet_logits(head: UperHead, features: Sequence[Tensor]) -> Tensor:
    """Turn four feature maps, finest first, into logits [B, C, h, w].

    The last convolution sees all levels at the size of the finest. Here each level is convolved at its own size.
    """
    laterals = [conv(feature) for conv, feature in zip(head.lateral_convs, features[:-1], strict=True)]
    laterals.append(head.psp_forward(features))
    for at in range(len(laterals) - 1, 0, -1):
        finer = laterals[at - 1]
        laterals[at - 1] = finer + enlarged(laterals[at], (finer.shape[2], finer.shape[3]))
    levels = [conv(lateral) for conv, lateral in zip(head.fpn_convs, laterals[:-1], strict=True)]
    conv, norm, activation = head.fpn_bottleneck.children()
    return head.classifier(activation(norm(convolved([*levels, laterals[-1]], cast(nn.Conv2d, conv).weight))))
