"""Computes multi-scale deformable attention in one CUDA kernel: softmax, bilinear gathers, their sum, none stored.

Written against the definition in ``deformable.py``. One program takes a block of queries of one head of one image.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from m2f_batch.models.fast_layers.positions import Size

BLOCK_QUERIES = 32


class _Kernel(Protocol):
    """A compiled kernel, which a grid of programs makes a function."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]: ...


@triton.jit  # type: ignore[untyped-decorator]
def _corner(value, x, y, weight, width, height, start, channel, pixel_stride: tl.constexpr, wanted):  # type: ignore[no-untyped-def]
    """Load one corner of a bilinear sample [queries, channels] times its weight [queries], zero outside the map."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & wanted
    offset = (start + y * width + x).to(tl.int64) * pixel_stride
    rows = tl.load(value + offset[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
    return rows.to(tl.float32) * weight[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _add_sample(  # type: ignore[no-untyped-def]
    total, value, x, y, weight, width, height, start, channel, pixel_stride: tl.constexpr, wanted
):
    """Add to ``total`` a bilinear sample [queries, channels] times its weight [queries], one corner after the other."""
    left, upper = tl.floor(x), tl.floor(y)
    right_part, lower_part = x - left, y - upper
    column, row = left.to(tl.int32), upper.to(tl.int32)
    above, below = weight * (1 - lower_part), weight * lower_part
    total += _corner(value, column, row, above * (1 - right_part), width, height, start, channel, pixel_stride, wanted)
    total += _corner(value, column + 1, row, above * right_part, width, height, start, channel, pixel_stride, wanted)
    total += _corner(
        value, column, row + 1, below * (1 - right_part), width, height, start, channel, pixel_stride, wanted
    )
    total += _corner(
        value, column + 1, row + 1, below * right_part, width, height, start, channel, pixel_stride, wanted
    )
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    value,  # [B, N, H, D]
    samples,  # [B, M, 3, H, L * P]
    output,  # [B, M, H, D] float32
    sizes,  # [L, 3] int32: height, width, first pixel
    pixels,
    queries,
    heads: tl.constexpr,
    channels: tl.constexpr,
    padded_channels: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    block: tl.constexpr,
):
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    count: tl.constexpr = levels * points
    query = tl.program_id(0) * block + tl.arange(0, block)
    wanted = query < queries
    channel = tl.arange(0, padded_channels)
    sample = samples + (image * queries + query.to(tl.int64)) * (3 * heads * count) + head * count
    value += (image * pixels * heads + head) * channels
    highest = tl.full([block], float("-inf"), tl.float32)
    for item in range(count):
        highest = tl.maximum(highest, tl.load(sample + 2 * heads * count + item, mask=wanted, other=0.0))
    total = tl.zeros([block, padded_channels], tl.float32)
    normalizer = tl.zeros([block], tl.float32)
    # channels that pad to a power of two read what follows, and are not stored
    channel_read = tl.where(channel < channels, channel, 0)
    for level in range(levels):
        height, width = tl.load(sizes + level * 3), tl.load(sizes + level * 3 + 1)
        start = tl.load(sizes + level * 3 + 2)
        for point in range(points):
            item = level * points + point
            logit = tl.load(sample + 2 * heads * count + item, mask=wanted, other=0.0)
            attention = tl.exp(logit - highest)
            normalizer += attention
            x = tl.load(sample + item, mask=wanted, other=-2.0)
            y = tl.load(sample + heads * count + item, mask=wanted, other=-2.0)
            near = (x > -1) & (x < width) & (y > -1) & (y < height) & wanted
            stride: tl.constexpr = heads * channels
            total = _add_sample(total, value, x, y, attention, width, height, start, channel_read, stride, near)
    place = ((image * queries + query.to(tl.int64)) * heads + head) * channels
    stored = wanted[:, None] & (channel < channels)[None, :]
    tl.store(output + place[:, None] + channel[None, :], total / normalizer[:, None], mask=stored)


def sample(value: Tensor, samples: Tensor, sizes: tuple[Size, ...]) -> Tensor:
    """Compute what ``deformable_attention`` defines, in float32."""
    batch, pixels, heads, channels = value.shape
    queries, count = samples.shape[1], samples.shape[4]
    output = torch.empty((batch, queries, heads, channels), dtype=torch.float32, device=value.device)
    kernel: _Kernel = _kernel
    kernel[(triton.cdiv(queries, BLOCK_QUERIES), heads, batch)](
        value.contiguous(),
        samples.contiguous(),
        output,
        _size_table(sizes, value.device),
        pixels,
        queries,
        heads,
        channels,
        triton.next_power_of_2(channels),
        len(sizes),
        count // len(sizes),
        BLOCK_QUERIES,
    )
    return output.flatten(2).to(value.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves a training, too
def _size_table(sizes: tuple[Size, ...], device: torch.device) -> Tensor:
    """Return height, width and first pixel of each level [L, 3]."""
    areas = [height * width for height, width in sizes]
    table = [(height, width, sum(areas[:level])) for level, (height, width) in enumerate(sizes)]
    return torch.tensor(table, dtype=torch.int32, device=device)
