"""Shifted windows (https://arxiv.org/abs/2103.14030) are one gather of rows instead of pad, roll, view and copy.

Windows are ordered by their mask: those that no image border crosses, then those in the last column, in the last row,
and the one in the corner. So a shifted layer needs four masks of one window, not one for every window.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from m2f_batch.models.fast_layers.positions import Size

KINDS = ((False, False), (False, True), (True, False), (True, True))  # last row, last column
BLOCKED = -100.0  # what Swin adds to the attention between pixels that are no neighbors


@dataclass(frozen=True)
class Windows:
    """The places of the pixels of B images [B * H * W] in their windows, and the way back."""

    groups: tuple["Group", ...]
    back: Tensor  # [B * H * W] place of each pixel


@dataclass(frozen=True)
class Group:
    """Windows of one mask."""

    kind: int  # index into KINDS
    rows: Tensor  # [windows * S * S] pixel of each place; padding points to pixel 0
    padding: Tensor  # places that are padding


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves a training, too
def windows_of(batch: int, size: Size, window: int, shift: int, at_once: int, device: torch.device) -> Windows:
    """Return the windows of ``batch`` images, padded right and below, rolled up and left, in groups of ``at_once``."""
    height, width = size
    tall, wide = -(-height // window), -(-width // window)
    y = (torch.arange(tall * window) + shift) % (tall * window)
    x = (torch.arange(wide * window) + shift) % (wide * window)
    pixel = torch.where((y < height)[:, None] & (x < width), y[:, None] * width + x, -1)
    grid = pixel.view(tall, window, wide, window).transpose(1, 2).expand(batch, -1, -1, -1, -1)
    image = torch.arange(batch).view(-1, 1, 1, 1, 1) * height * width
    grid = torch.where(grid < 0, -1, grid + image)  # [B, rows, columns, S, S]
    last_row = (torch.arange(tall) == tall - 1)[:, None].expand(batch, tall, wide)
    last_column = (torch.arange(wide) == wide - 1).expand(batch, tall, wide)
    kinds = (
        [grid[(last_row == row) & (last_column == column)] for row, column in KINDS] if shift else [grid.flatten(0, 2)]
    )
    groups = [(kind, some.flatten()) for kind, rows in enumerate(kinds) for some in torch.split(rows, at_once)]
    every = torch.cat([rows for _, rows in groups])
    places = torch.nonzero(every >= 0).flatten()
    back = torch.empty(batch * height * width, dtype=torch.int64)
    back[every[places]] = places
    return Windows(
        tuple(
            Group(kind, rows.clamp(min=0).to(device), torch.nonzero(rows < 0).flatten().to(device))
            for kind, rows in groups
            if len(rows)
        ),
        back.to(device),
    )


def window_masks(size: int, shift: int) -> Tensor:
    """Return the masks that are added to the attention in a window of each of KINDS: [4, S * S, S * S]."""
    inside, crossed = torch.zeros(size, dtype=torch.int64), (torch.arange(size) >= size - shift).long()
    masks = []
    for last_row, last_column in KINDS:
        y, x = crossed if last_row else inside, crossed if last_column else inside
        region = (y[:, None] * 2 + x).flatten()
        masks.append(torch.where(region[:, None] != region, BLOCKED, 0.0))
    return torch.stack(masks)
