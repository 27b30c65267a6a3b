"""The model as it is trained: pixel values to the logits of every layer, no loss inside."""

from typing import Any

from torch import Tensor

LayerLogits = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def layer_logits(model: Any, pixel_values: Tensor) -> LayerLogits:
    """Class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of every layer, first to last."""
    # hidden states are asked for since transformers forgets them with use_auxiliary_loss: false, and crashes without
    output = model(pixel_values=pixel_values, output_hidden_states=True, output_auxiliary_logits=True)
    layers = output.auxiliary_logits or []
    classes = [layer["class_queries_logits"] for layer in layers] + [output.class_queries_logits]
    masks = [layer["masks_queries_logits"] for layer in layers] + [output.masks_queries_logits]
    return tuple(classes), tuple(masks)
