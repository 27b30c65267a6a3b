"""Sine position embeddings and sampling origins depend on the sizes of the feature maps alone.

Cheap enough to be made anew for every image: sines only of the rows and of the columns, then one copy.
"""

import math

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


def sine_positions(size: Size, channels: int, temperature: float, like: Tensor) -> Tensor:
    """Position embedding [H * W, channels] in the dtype of ``like``: half of the channels for y, then half for x.

    As in DETR (https://arxiv.org/abs/2005.12872), normalized to 2 pi.
    """
    height, width = size
    exact = torch.empty((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    y, x = (_sines(length, channels // 2, temperature, exact).to(like.dtype) for length in size)
    grid = torch.cat((y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)), dim=2)
    return grid.reshape(height * width, -1)


def _sines(length: int, channels: int, temperature: float, like: Tensor) -> Tensor:
    """Compute sine and cosine in turn: [length, channels]."""
    place = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    place = place / (place[-1:] + 1e-6) * (2 * math.pi)
    power = torch.arange(channels, dtype=torch.int64, device=like.device).to(like.dtype)
    period = temperature ** (2 * torch.div(power, 2, rounding_mode="floor") / channels)
    angle = place[:, None] / period
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def sampling_origins(sizes: tuple[Size, ...], like: Tensor) -> Tensor:
    """Place all levels' pixels on all levels: coordinates [N, 2, L] in pixels, x before y, at least float32.

    N are the pixels of the L levels, one level after the other, row by row; pixel 0 has its center at 0.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    origins = []
    for height, width in sizes:
        y = torch.linspace(0.5, height - 0.5, height, dtype=exact, device=like.device) / height
        x = torch.linspace(0.5, width - 0.5, width, dtype=exact, device=like.device) / width
        xy = torch.stack((x[None].expand(height, -1), y[:, None].expand(-1, width))).flatten(1)
        # times Python's numbers: a tensor made of them would have to wait for what a GPU is doing
        on_levels = [torch.stack((xy[0] * wide, xy[1] * tall), dim=-1) for tall, wide in sizes]
        origins.append(torch.stack(on_levels, dim=-1) - 0.5)
    return torch.cat(origins)
