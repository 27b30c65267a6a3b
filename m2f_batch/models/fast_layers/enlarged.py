"""Convolves maps that would be enlarged first, at the size that they have: both are linear, so their order is free.

A head that joins maps of 1/4, 1/8, 1/16 and 1/32 of the canvas at 1/4 spends most of its time on pixels that were
interpolated from few.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m2f_batch.models.fast_layers.linear import map_of, pixels_of, product

TAPS = 3  # along an edge of the kernel


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps [B, C, h, w] to [B, C, H, W], bilinear with corners not aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def is_convolved_small(x: Tensor) -> bool:
    """Tell whether ``convolved`` works at the size of each map: on CPU in full precision, where it was measured."""
    return x.is_cpu and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def convolved(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Convolve maps [B, C_i, h_i, w_i], all enlarged to the first and joined, with zeros around: [B, N, H, W].

    ``weight`` is [N, sum of C_i, 3, 3].
    """
    size = (maps[0].shape[2], maps[0].shape[3])
    if not is_convolved_small(maps[0]):
        return F.conv2d(torch.cat([maps[0], *(enlarged(x, size) for x in maps[1:])], 1), weight, padding=1)
    first, *others = torch.split(weight, [x.shape[1] for x in maps], 1)
    total = F.conv2d(maps[0], first, padding=1).contiguous(memory_format=torch.channels_last)
    for x, part in zip(maps[1:], others, strict=True):
        _add_convolved(total.permute(0, 2, 3, 1), x, part)
    return total


def _add_convolved(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add the convolution of one map to [B, H, W, N], a row of the kernel after the other.

    Each tap is a product of its own at the size of the map. What the taps of a row give is enlarged across and summed,
    each moved by a pixel, and the sum is enlarged down and moved by a row.
    """
    size, outputs = (total.shape[1], total.shape[2]), len(weight)
    pixels, (height, width) = pixels_of(x), x.shape[2:]
    for row in range(TAPS):
        taps = weight[:, :, row].permute(2, 0, 1).reshape(TAPS * outputs, -1)
        wide = enlarged(map_of(product(pixels, taps), (height, width)), (height, size[1])).permute(0, 2, 3, 1)
        left, middle, right = torch.split(wide, outputs, 3)
        summed = middle.contiguous()
        summed[:, :, 1:] += left[:, :, :-1]
        summed[:, :, :-1] += right[:, :, 1:]
        tall = enlarged(summed.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
        move = row - 1  # an output row reads the one above, itself, and the one below
        total[:, max(0, -move) : size[0] - max(0, move)] += tall[:, max(0, move) : size[0] + min(0, move)]
