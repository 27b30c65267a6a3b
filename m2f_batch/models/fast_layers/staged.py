"""A network has three stages, each fast or as it is: the backbone, the pixel decoder, and what predicts.

Its check compares stage by stage. Each begins from what the reference gave, because a bit of an attention mask that
flips by rounding is no fault and would change all that follows.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from m2f_batch.models.fast_layers.backbones import NOT_KNOWN_HERE, feature_maps
from m2f_batch.models.predictions import Prediction, Predictor

Parts = Iterator[tuple[str, Tensor, Tensor]]
Tensors = tuple[Tensor, ...]


class BackboneOutput(Protocol):
    """The output of a backbone of transformers."""

    feature_maps: Sequence[Tensor]


class PixelDecoderOutput(Protocol):
    """The output of a pixel decoder of transformers, of which each family has some."""

    multi_scale_features: Sequence[Tensor]
    mask_features: Tensor
    last_hidden_state: Tensor


class Staged(Predictor):
    """A network from pixel values to feature maps, to what the pixel decoder gives on, to the prediction."""

    def __init__(self, backbone: nn.Module, pixel_decoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.backbone, self.pixel_decoder, self.decoder = backbone, pixel_decoder, decoder

    def forward(self, pixel_values: Tensor) -> Prediction:
        """Turn pixel values [B, 3, Hc, Wc] into their prediction."""
        features = feature_maps(self.backbone, pixel_values)
        prediction: Prediction = self.decoder(*self.pixel_decoder(features))
        return prediction


class StagedForward:
    """``Network.fast`` of a network in three stages.

    ``make`` takes a model of ``transformers`` over. ``level_of`` is its module with an ``encoder``, the backbone, and a
    ``decoder``. ``given_on`` makes of the feature maps and of that decoder's output what the last stage takes.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[nn.Module], Staged],
        predict: Callable[[nn.Module, Tensor], Prediction],
        level_of: Callable[[nn.Module], nn.Module],
        given_on: Callable[[Tensors, PixelDecoderOutput], Tensors],
    ) -> None:
        self.name, self.make, self.predict, self.level_of, self.given_on = name, make, predict, level_of, given_on

    def build(self, model: nn.Module) -> Staged | None:
        """Build the faster network of a model's weights. Warns and returns None where that is built otherwise."""
        try:
            return self.make(model).eval().requires_grad_(False)
        except NOT_KNOWN_HERE as error:
            warnings.warn(
                f"this transformers builds {self.name} in a way that is not known here ({error}): it runs as it is, "
                "which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def compared(self, model: nn.Module, pixel_values: Tensor) -> Callable[[Predictor], Parts]:
        """Run the modules of transformers once, and keep what each stage of them gave."""
        level, seen = self.level_of(model), dict[str, object]()
        hooks = [
            level.get_submodule(name).register_forward_hook(lambda *given, name=name: seen.update({name: given[2]}))
            for name in ("encoder", "decoder")
        ]
        try:
            prediction = self.predict(model, pixel_values)
        finally:
            for hook in hooks:
                hook.remove()
        features = tuple(cast(BackboneOutput, seen["encoder"]).feature_maps)
        given = self.given_on(features, cast(PixelDecoderOutput, seen["decoder"]))

        def parts(fast: Predictor) -> Parts:
            assert isinstance(fast, Staged)
            for at, pair in enumerate(zip(feature_maps(fast.backbone, pixel_values), features, strict=True)):
                yield f"feature map {at + 1} of the backbone", *pair
            for at, pair in enumerate(zip(fast.pixel_decoder(features), given, strict=True)):
                yield f"output {at + 1} of the pixel decoder", *pair
            for at, pair in enumerate(zip(fast.decoder(*given).tensors, prediction.tensors, strict=True)):
                yield f"logits {at + 1}", *pair

        return parts
