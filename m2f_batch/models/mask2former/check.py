"""The fast forward pass of Mask2Former is compared with transformers' modules, part by part.

The parts are the backbone's features, the pixel decoder's from the reference's features, the first predictions, each
decoder layer on the reference's own inputs and masks, and the last predictions from the reference's last queries. Each
part begins from what the reference gave, because a bit of an attention mask that flips by rounding is no fault and
would change all that follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from m2f_batch.models.fast_layers.linear import linear, pixels_of
from m2f_batch.models.fast_layers.staged import BackboneOutput, Parts, PixelDecoderOutput, Tensors
from m2f_batch.models.mask2former.fast import FastMask2Former, fast_mask2former
from m2f_batch.models.mask2former.modules import Mask2FormerForUniversalSegmentation
from m2f_batch.models.mask2former.transformers_model import predict
from m2f_batch.models.predictions import Predictor


class FastMask2FormerForward:
    """``Network.fast`` of Mask2Former."""

    def build(self, model: nn.Module) -> FastMask2Former | None:
        """Make a FastMask2Former of the model's weights. Warns and returns None where that is built otherwise."""
        return fast_mask2former(model)

    def compared(self, model: nn.Module, pixel_values: Tensor) -> Callable[[Predictor], Parts]:
        """Run the modules of transformers once, and keep what each part of them was given and gave."""
        seen = observe(model, pixel_values)

        def parts(fast: Predictor) -> Parts:
            assert isinstance(fast, FastMask2Former)
            return parts_of(fast, seen)

        return parts


@dataclass
class Reference:
    """A reference holds what the modules of transformers gave for the image, each part with what it began from."""

    values: Tensor
    features: tuple[Tensor, ...] = ()
    maps: list[Tensor] = field(default_factory=list)
    mask_features: Tensor = field(default_factory=lambda: torch.empty(0))
    layers: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # queries, mask, queries after it
    predictions: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # normed queries, mask logits
    class_logits: Tensor = field(default_factory=lambda: torch.empty(0))


def observe(model: nn.Module, pixel_values: Tensor) -> Reference:
    """Run one forward pass of ``transformers``' Mask2Former, and keep what came between."""
    seen, parts = Reference(pixel_values), cast(Mask2FormerForUniversalSegmentation, model).model
    pixel_level, decoder = parts.pixel_level_module, parts.transformer_module.decoder

    def backbone(module: nn.Module, inputs: Tensors, output: BackboneOutput) -> None:
        seen.features = tuple(output.feature_maps)

    def pixel_decoder(module: nn.Module, inputs: Tensors, output: PixelDecoderOutput) -> None:
        seen.maps, seen.mask_features = list(output.multi_scale_features), output.mask_features

    def layer(module: nn.Module, inputs: Tensors, options: Mapping[str, Tensor], output: Tensors) -> None:
        seen.layers.append((inputs[0], options["encoder_attention_mask"], output[0]))

    def predictor(module: nn.Module, inputs: Tensors, output: Tensors) -> None:
        seen.predictions.append((inputs[0], output[0]))

    hooks = [
        pixel_level.encoder.register_forward_hook(backbone),
        pixel_level.decoder.register_forward_hook(pixel_decoder),
        decoder.mask_predictor.register_forward_hook(predictor),
        *(one.register_forward_hook(layer, with_kwargs=True) for one in decoder.layers),
    ]
    try:
        seen.class_logits = predict(model, pixel_values).class_logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def parts_of(fast: FastMask2Former, seen: Reference) -> Parts:
    """Yield the name of each part, what ours gives, and what the reference gave. Each is computed at its turn."""
    for at, pair in enumerate(zip(fast.features(seen.values), seen.features, strict=True)):
        yield f"feature map {at + 1} of the backbone", *pair
    maps, mask_features = fast.pixel_decoder(seen.features)
    for at, pair in enumerate(zip(maps, seen.maps, strict=True)):
        yield f"feature map {at + 1} of the pixel decoder", *pair
    yield "the mask features", mask_features, seen.mask_features
    decoder, pixels = fast.masked_decoder, pixels_of(seen.mask_features)
    (first, first_masks), (last, last_masks) = seen.predictions[0], seen.predictions[-1]
    ours = decoder.mask_logits(decoder.norm(_rows(decoder.queries[:, None])), pixels)
    yield "the first mask logits", ours.view(first_masks.shape), first_masks
    levels = [decoder.level(seen.maps, seen.mask_features, at) for at in range(min(len(seen.maps), len(seen.layers)))]
    if levels:
        size = seen.maps[0].shape[2:]
        resized = nn.functional.interpolate(first_masks.float(), size=size, mode="bilinear", align_corners=False)
        yield "the first attention", decoder.mask_logits(_rows(first), levels[0][2]).view(resized.shape), resized
    for at, (before, mask, after) in enumerate(seen.layers):
        where, placed, _ = levels[at % len(levels)]
        blocked = mask.view(len(seen.values), -1, *mask.shape[1:])[:, :1].bool()
        bias = torch.zeros_like(blocked, dtype=before.dtype).masked_fill_(blocked, float("-inf"))
        ours = decoder.layers[at](_rows(before), decoder.query_positions, where, placed, bias)
        yield f"decoder layer {at + 1}", ours, _rows(after)
    yield "the class logits", linear(_rows(last), decoder.class_predictor), seen.class_logits
    yield "the mask logits", decoder.mask_logits(_rows(last), pixels).view(last_masks.shape), last_masks


def _rows(queries: Tensor) -> Tensor:
    """Turn queries [Q, B, C], as transformers has them, into [B, Q, C]."""
    return queries.transpose(0, 1)
