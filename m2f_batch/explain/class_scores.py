"""Says how each class of pixels did, by the plain dense definition, a few classes at a time.

For predictions that give each pixel a class, and for the windows of an image, whose mean decides. Slow and simple on
purpose, and independent of ``vision/postprocess.py``, whose segments it is held against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from m2f_batch.explain.definition import Defined, Definition
from m2f_batch.models.predictions import PixelLogits, Prediction, QueryLogits
from m2f_batch.vision.cuts.view import View
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.rle import encode_mask

AT_ONCE = 1 << 26  # values of some classes over the image


@dataclass
class JudgedClass:
    """The verdict on a class: the pixels it wins, and the highest and the mean value that it has over the image.

    A value is a logit, or, where queries vote, the sum of their votes. ``segment`` is the id of its segment.
    """

    category_id: int
    pixels: int
    highest: float
    mean: float
    segment: int | None = None


@torch.inference_mode()
def define_classes(
    predictions: Sequence[Prediction], views: Sequence[View], frame: Frame, upsampling: str = "bilinear"
) -> tuple[list[JudgedClass], Definition]:
    """Apply the definition to the predictions of an image's views, float32 on the CPU.

    ``frame.content`` is the size that the image was resized to before windows were taken.
    """
    first = predictions[0]
    count = len(first.logits) if isinstance(first, PixelLogits) else first.tensors[0].shape[1] - 1
    step = max(1, AT_ONCE // max(frame.content[0] * frame.content[1], frame.output[0] * frame.output[1]))
    winner = torch.full(frame.output, -1, dtype=torch.int16)
    highest, total = torch.full(frame.output, -torch.inf), torch.zeros(frame.output)
    judged = []
    for start in range(0, count, step):
        classes = slice(start, min(start + step, count))
        for category_id, values in enumerate(_full(predictions, views, frame, classes, upsampling), start=start):
            wins = values > highest  # a tie stays with the class before
            winner.masked_fill_(wins, category_id)
            above = torch.maximum(highest, values)
            if isinstance(first, PixelLogits):  # the sum of exponentials, relative to the highest
                total = total * (highest - above).exp() + (values - above).exp()
            else:
                total += values
            highest = above
            judged.append(JudgedClass(category_id, 0, float(values.max()), float(values.mean())))
    share = 1 / total if isinstance(first, PixelLogits) else (highest / total).nan_to_num(0.0)
    segments = []
    for item in judged:
        mask = winner == item.category_id
        item.pixels = int(mask.count_nonzero())
        if item.pixels:
            score = float(share[mask].mean(dtype=torch.float64))
            segments.append(Defined(item.category_id, score, encode_mask(mask.numpy()), []))
    segments.sort(key=lambda found: -found.code.area)
    for number, segment in enumerate(segments, start=1):
        judged[segment.category_id].segment = number
    return judged, Definition([], segments)


def _full(
    predictions: Sequence[Prediction], views: Sequence[View], frame: Frame, classes: slice, upsampling: str
) -> Tensor:
    """Values of some classes at the output, [K, H, W]."""
    if upsampling == "corners":
        (only,) = predictions
        return _up(only.tensors[0][classes], frame.output, corners=True)
    content = _content(predictions, views, frame, classes)
    if upsampling == "nearest":
        return interpolate(content[None], size=frame.output, mode="nearest")[0]
    return _up(content, frame.output)


def _content(predictions: Sequence[Prediction], views: Sequence[View], frame: Frame, classes: slice) -> Tensor:
    """Their mean over the windows, [K, hc, wc]."""
    sums, count = torch.zeros(()), torch.zeros(frame.content)
    for prediction, view in zip(predictions, views, strict=True):
        (height, width), (y, x) = view.content_hw, view.window[:2]
        values = _on_canvas(prediction, view, classes)[:, :height, :width]
        if len(views) == 1:
            return values
        sums = sums if sums.ndim else torch.zeros((len(values), *frame.content))
        sums[:, y : y + height, x : x + width] += values
        count[y : y + height, x : x + width] += 1
    return sums / count


def _on_canvas(prediction: Prediction, view: View, classes: slice) -> Tensor:
    if isinstance(prediction, QueryLogits):
        weights = prediction.class_logits.softmax(-1)[:, :-1][:, classes]
        return torch.einsum("qc,qhw->chw", weights, _up(prediction.mask_logits, view.canvas_hw).sigmoid())
    return _up(prediction.tensors[0][classes], view.canvas_hw)


def _up(planes: Tensor, size: tuple[int, int], *, corners: bool = False) -> Tensor:
    return interpolate(planes[None], size=size, mode="bilinear", align_corners=corners, antialias=False)[0]
