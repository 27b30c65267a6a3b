"""Runs the pixel decoder of Mask2Former (https://arxiv.org/abs/2112.01527): from maps to levels and mask features.

OneFormer (https://arxiv.org/abs/2211.06220) has the same.

B images, levels coarse to fine with N pixels in all, C channels.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2f_batch.models.fast_layers.linear import feed_forward, layer_of, linear, map_of, pixels_of, product, rows_at_once
from m2f_batch.models.fast_layers.norm import group_norm_
from m2f_batch.models.fast_layers.positions import Size, sampling_origins, sine_positions
from m2f_batch.models.fast_layers.structure import UnknownStructureError, affine, checked
from m2f_batch.models.mask2former.deformable import deformable_attention
from m2f_batch.models.mask2former.modules import (
    LEVELS,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    OneFormerPixelDecoder,
    Projection,
    PyramidStep,
)

LAYER = "encoder.layers.#."
PARAMETERS = {
    "level_embed",
    *affine("input_projections.#.#", "mask_projection"),
    *affine(*(LAYER + f"self_attn.{name}" for name in ("sampling_offsets", "attention_weights", "value_proj"))),
    *affine(*(LAYER + name for name in ("self_attn.output_proj", "self_attn_layer_norm", "fc1", "fc2"))),
    *affine(LAYER + "final_layer_norm", "adapter_#.#", "layer_#.#"),
}


class FastPixelDecoder(nn.Module):
    """``transformers``' Mask2FormerPixelDecoder or OneFormerPixelDecoder."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        decoder: Mask2FormerPixelDecoder | OneFormerPixelDecoder
        if type(module).__name__ == OneFormerPixelDecoder.__name__:
            decoder = checked(module, OneFormerPixelDecoder, PARAMETERS)
            laterals, outputs = decoder.lateral_convs, decoder.output_convs
        else:
            decoder = checked(module, Mask2FormerPixelDecoder, PARAMETERS)
            laterals, outputs = decoder.lateral_convolutions, decoder.output_convolutions
        if decoder.num_feature_levels != LEVELS or not len(decoder.encoder.layers):
            raise UnknownStructureError(f"not {LEVELS} feature levels, or no encoder layer")
        self.projections = decoder.input_projections
        self.level_embed = decoder.level_embed
        layers = nn.ModuleList(map(FastDeformableLayer, decoder.encoder.layers))
        self.layers = cast("Sequence[FastDeformableLayer]", layers)
        self.laterals = cast("Sequence[Projection]", nn.ModuleList(laterals))
        self.outputs = cast("Sequence[PyramidStep]", nn.ModuleList(outputs))
        if any(type(activation) is not nn.ReLU for _, _, activation in outputs):
            raise UnknownStructureError("the activation of the feature pyramid is not ReLU")
        self.mask_projection = decoder.mask_projection
        self.fpn_levels = decoder.num_fpn_levels
        positions = decoder.position_embedding
        if not (positions.normalize and positions.scale == 2 * torch.pi):
            raise UnknownStructureError("position embeddings of the pixel decoder are not those of DETR")
        self.temperature = positions.temperature

    def forward(self, features: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
        """Feature maps [B, C_i, H_i, W_i], finest first, to three maps, coarsest first, and mask features."""
        projected = [
            _project(layer, feature) for layer, feature in zip(self.projections, features[::-1][:LEVELS], strict=True)
        ]
        sizes = tuple((x.shape[2], x.shape[3]) for x in projected)
        x = torch.cat([pixels_of(level) for level in projected], dim=1)
        positions = [sine_positions(size, x.shape[2], self.temperature, x) for size in sizes]
        embedded = [position + embed for position, embed in zip(positions, self.level_embed.to(x.dtype), strict=True)]
        origins = self._origins(sizes, x)
        all_positions = torch.cat(embedded)[None]
        for layer in self.layers:
            x = layer(x, all_positions, origins, sizes)
        levels = torch.split(x, [height * width for height, width in sizes], dim=1)
        maps = [map_of(level, size) for level, size in zip(levels, sizes, strict=True)]
        fine_first = features[: self.fpn_levels]
        for feature, lateral, output in zip(fine_first[::-1], self.laterals, self.outputs, strict=True):
            fine = _project(lateral, feature)
            coarse = F.interpolate(maps[-1], size=fine.shape[2:], mode="bilinear", align_corners=False)
            conv, norm, _ = output
            finer = conv(fine.add_(coarse))
            maps.append(group_norm_(pixels_of(finer), norm, (finer.shape[2], finer.shape[3])).relu_())
        finest, height, width = pixels_of(maps[-1]), maps[-1].shape[2], maps[-1].shape[3]
        mask_features = product(finest, self.mask_projection.weight.flatten(1), self.mask_projection.bias)
        return maps[:LEVELS], map_of(mask_features, (height, width))

    def _origins(self, sizes: tuple[Size, ...], x: Tensor) -> Tensor:
        """Return the places that are added to the offsets and attention logits of all layers, [1, N, 3 * H * L * P]."""
        origins = sampling_origins(sizes, x)[:, :, None, :, None]
        heads, points = self.layers[0].heads, self.layers[0].points
        shape = (len(origins), 3, heads, len(sizes), points)
        full = torch.zeros(shape, dtype=origins.dtype, device=x.device)
        full[:, :2] = origins
        return full.view(1, len(full), -1)


class FastDeformableLayer(nn.Module):
    """One encoder layer: deformable attention over all levels, then a feed-forward network."""

    def __init__(self, layer: Mask2FormerPixelDecoderEncoderLayer) -> None:
        super().__init__()
        attention = layer.self_attn
        self.heads = attention.n_heads
        self.points = attention.n_points
        self.samples = _join_sampling(attention)
        self.value = attention.value_proj
        self.out = attention.output_proj
        self.norm, self.final_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.fc1, self.fc2 = layer.fc1, layer.fc2
        if layer.activation_fn is not F.relu:
            raise UnknownStructureError("the activation of the pixel decoder is not ReLU")
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, positions: Tensor, origins: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Run it on x [B, N, C], positions [1, N, C], origins of samples [1, N, 3 * H * L * P]: the same shape."""
        value = linear(x, self.value).unflatten(2, (self.heads, -1))  # type: ignore[no-untyped-call]
        step = rows_at_once(x.shape[1], self.fc1.out_features, x.device)
        some = zip(*(torch.split(every, step, dim=1) for every in (x, positions, origins)), strict=True)
        return torch.cat([self._update(a, b, c, value, sizes) for a, b, c in some], dim=1)

    def _update(self, x: Tensor, positions: Tensor, origins: Tensor, value: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Some of the pixels x [B, M, C], after they have attended to the value [B, N, H, D] of all."""
        samples = linear(x + positions, self.samples, residual=origins).view(*x.shape[:2], 3, self.heads, -1)
        x = self.norm(linear(deformable_attention(value, samples, sizes), self.out, residual=x))
        return self.final_norm(feed_forward(x, self.fc1, self.activation, self.fc2, x))


def _join_sampling(attention: Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention) -> nn.Linear:
    """Offsets and attention weights as one layer whose outputs are x, y, logit, each [heads, levels * points]."""
    offsets, logits = attention.sampling_offsets, attention.attention_weights
    return layer_of(
        torch.cat((offsets.weight[0::2], offsets.weight[1::2], logits.weight)),
        torch.cat((offsets.bias[0::2], offsets.bias[1::2], logits.bias)),
    )


def _project(layers: Projection, x: Tensor) -> Tensor:
    """Run a 1x1 convolution and its GroupNorm, from [B, C, H, W] to channels-last [B, C', H, W]."""
    conv, norm = layers
    y = product(pixels_of(x), conv.weight.flatten(1), conv.bias)
    return group_norm_(y, norm, (x.shape[2], x.shape[3]))
