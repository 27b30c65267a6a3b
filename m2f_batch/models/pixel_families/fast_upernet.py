"""Runs a UperNet with the fast form of its backbone where there is one, and of its head, and compares both first."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from m2f_batch.models.fast_layers.backbones import fast_backbone, feature_maps
from m2f_batch.models.fast_layers.staged import BackboneOutput
from m2f_batch.models.pixel_families.heads import upernet_logits
from m2f_batch.models.pixel_families.modules import UperNet
from m2f_batch.models.pixel_families.transformers_model import predict_upernet
from m2f_batch.models.predictions import PixelLogits, Predictor

Parts = Iterator[tuple[str, Tensor, Tensor]]


class FastUperNet(Predictor):
    """A network from pixel values [B, 3, Hc, Wc] to logits [B, C, h, w] at 1/4 of the canvas."""

    def __init__(self, model: UperNet) -> None:
        super().__init__()
        self.backbone, self.head = fast_backbone(model.backbone), model.decode_head

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the logits of feature maps."""
        return upernet_logits(self.head, features)

    def forward(self, pixel_values: Tensor) -> PixelLogits:
        """Compute the logits of each pixel's class."""
        return PixelLogits(self.logits(feature_maps(self.backbone, pixel_values)))


class FastUperNetForward:
    """``Network.fast`` of UperNet."""

    def build(self, model: nn.Module) -> FastUperNet:
        """Make a FastUperNet of a model's weights. A backbone without a fast form stays as it is."""
        return FastUperNet(cast(UperNet, model)).eval().requires_grad_(False)

    def compared(self, model: nn.Module, pixel_values: Tensor) -> Callable[[Predictor], Parts]:
        """Run the modules of transformers once, and keep the feature maps and the logits."""
        seen: list[tuple[Tensor, ...]] = []
        hook = model.get_submodule("backbone").register_forward_hook(
            lambda module, inputs, output: seen.append(tuple(cast(BackboneOutput, output).feature_maps))
        )
        try:
            logits = predict_upernet(model, pixel_values).logits
        finally:
            hook.remove()
        (features,) = seen

        def parts(fast: Predictor) -> Parts:
            assert isinstance(fast, FastUperNet)
            for at, pair in enumerate(zip(feature_maps(fast.backbone, pixel_values), features, strict=True)):
                yield f"feature map {at + 1} of the backbone", *pair
            yield "the logits", fast.logits(features), logits

        return parts
