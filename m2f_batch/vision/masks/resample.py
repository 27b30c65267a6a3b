"""Upsampling without antialias of any part of an image, as torch computes the whole.

The part is cut out of the input before it grows, so that the work is that of the part. Source positions are rounded as
``torch.nn.functional.interpolate`` rounds them: another rounding would move logits at 4K by more than 1e-4.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# bilinear with ``align_corners`` false and true, and the nearest input
Kernel = Literal["bilinear", "corners", "nearest"]


@dataclass(frozen=True)
class Axis:
    """One axis of a resize: output i is ``input[low[i]] * (1 - weight[i]) + input[high[i]] * weight[i]``."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    low_index: Tensor  # the same on the device
    high_index: Tensor
    weight: Tensor

    def reads(self, span: range) -> range:
        """The inputs that a span of outputs is made of."""
        return range(int(self.low[span.start]), int(self.high[span.stop - 1]) + 1)

    def reached_by(self, span: range) -> range:
        """The outputs that some input of the span takes part in."""
        first = int(np.searchsorted(self.high, span.start, side="left"))
        return range(first, max(first, int(np.searchsorted(self.low, span.stop - 1, side="right"))))

    def cut(self, length: int) -> "Axis":
        """The first outputs only."""
        return Axis(
            self.low[:length],
            self.high[:length],
            self.low_index[:length],
            self.high_index[:length],
            self.weight[:length],
        )


@lru_cache(maxsize=64)
def axis_of(size_in: int, size_out: int, dtype: torch.dtype, device: torch.device, kernel: Kernel = "bilinear") -> Axis:
    """The axis of a resize from ``size_in`` to ``size_out``, in float32 or float64."""
    source = _sources(size_in, size_out, kernel, np.dtype(np.float64 if dtype == torch.float64 else np.float32))
    low = np.minimum(source.astype(np.int64), size_in - 1)
    if kernel == "nearest":
        high, weight = low, np.zeros_like(source)
    else:
        high, weight = np.minimum(low + 1, size_in - 1), np.clip(source - low.astype(source.dtype), 0, 1)
    return Axis(low, high, *(torch.from_numpy(each).to(device) for each in (low, high, weight)))


def _sources(size_in: int, size_out: int, kernel: Kernel, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """The position in the input of each output, which torch computes for "nearest" in float32 always."""
    number = np.float32 if kernel == "nearest" else dtype.type
    places = np.arange(size_out).astype(number)
    if kernel == "corners":
        return number(size_in - 1) / number(max(size_out - 1, 1)) * places
    scale = number(size_in) / number(size_out)
    if kernel == "nearest":
        return np.floor(scale * places).astype(dtype)
    return np.maximum(scale * (places + number(0.5)) - number(0.5), number(0))


def grow(rows: Tensor, axis: Axis, span: range, origin: int) -> Tensor:
    """Outputs ``span`` along the second last dimension: [..., n, m] to [..., len(span), m].

    ``rows`` holds the inputs from ``origin`` on, at least those that ``axis.reads(span)``.
    """
    part = slice(span.start, span.stop)
    low, high = (
        rows.index_select(-2, axis.low_index[part] - origin),
        rows.index_select(-2, axis.high_index[part] - origin),
    )
    return torch.lerp(low, high, axis.weight[part, None])
