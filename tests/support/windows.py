"""The plain definition of windows: the dense mean of what a model gives for them, and where the originals put them."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from support import reference
from torch import Tensor

from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare


def slid_as_mmsegmentation(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Windows of one side, by the definition: ceil((side - size) / stride) + 1, the last moved back to the border."""
    windows = []
    for index in range(max(0, math.ceil((length - size) / stride)) + 1):
        end = min(index * stride + size, length)
        windows.append((max(end - size, 0), end))
    return windows


def slid_as_eomt(length: int, size: int) -> list[tuple[int, int]]:
    """Windows of one side: ceil(length / size), at int(j * (size - overlap)), the last one up to the border."""
    count = math.ceil(length / size)
    step = size if count == 1 else size - (count * size - length) / (count - 1)
    starts = [int(j * step) for j in range(count)]
    starts[-1] = max(length - size, 0)
    return [(start, min(start + size, length)) for start in starts]


def windowed(
    logits_of: Callable[[Tensor], Sequence[Tensor]], plan: PreprocessPlan, image: NDArray[np.uint8], cut: Windows
) -> list[reference.Region]:
    """Segments of an image by the dense mean over its windows.

    ``logits_of`` gives, for pixel values, the tensors of a prediction: of classes, or of queries with their classes.
    """
    content = prepare(image, plan).contents[0]
    size = (content.shape[0], content.shape[1])
    spans = [
        slid_as_eomt(length, cut.size) if cut.stride is None else slid_as_mmsegmentation(length, cut.size, cut.stride)
        for length in size
    ]
    total: Tensor | float = 0.0
    count, has_queries = torch.zeros(size), False
    for (top, bottom), (left, right) in itertools.product(*spans):
        window = content[top:bottom, left:right]
        down, across = (math.ceil(length / plan.divisor) * plan.divisor for length in window.shape[:2])
        values = pixel_values([window], (down, across), plan, torch.device("cpu"))
        *classes, logits = (each[0].float() for each in logits_of(values))
        grown, has_queries = reference.up(logits, (down, across)), bool(classes)
        if has_queries:
            grown = torch.einsum("qc,qhw->chw", classes[0].softmax(-1)[:, :-1], grown.sigmoid())
        total = torch.zeros(len(grown), *size) if isinstance(total, float) else total
        total[:, top:bottom, left:right] += grown[:, : bottom - top, : right - left]
        count[top:bottom, left:right] += 1
    assert isinstance(total, Tensor) and count.min() >= 1
    values = reference.up(total / count, (image.shape[0], image.shape[1]))
    shares = (values / values.sum(0)).nan_to_num(0.0) if has_queries else values.softmax(0)  # 0 where the sum is 0
    return _regions(values, shares.gather(0, values.argmax(0)[None])[0])


def _regions(values: Tensor, share: Tensor) -> list[reference.Region]:
    """Segments of values [C, H, W]: the argmax, doubtful where the best two differ by no more than rounding."""
    best, second = values.topk(2, 0).values
    winner, doubtful = values.argmax(0), (best - second < 1e-4).numpy()
    regions = [
        reference.Region(float(share[winner == c].mean()), c, (winner == c).numpy(), doubtful)
        for c in range(len(values))
        if (winner == c).any()
    ]
    return sorted(regions, key=lambda region: (-region.mask.sum(), region.category_id))
