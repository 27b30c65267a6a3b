"""Computes multi-scale deformable attention (https://arxiv.org/abs/2010.04159), in inference and in training.

Every query and head takes a weighted sum of a few bilinear samples of every level. Training uses ``with_grid_sample``
(see ``fast_training``).

On CPU each (query, head) is one bag of ``embedding_bag``: levels x points x 4 corners, rows of ``D`` channels that lie
together in memory, multiplied by attention x bilinear weight. ``transformers`` samples each level with ``grid_sample``
into a tensor points x levels times larger than the result and then reduces it. On CUDA a Triton kernel does all in one
pass.

B images, N pixels of all levels, M queries, H heads, D channels per head, L levels, P points.
"""

from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from m2f_batch.models.fast_layers.positions import Size


def deformable_attention(value: Tensor, samples: Tensor, sizes: tuple[Size, ...]) -> Tensor:
    """Value [B, N, H, D] sampled at ``samples`` [B, M, 3, H, L * P]: [B, M, H * D] in the dtype of value.

    ``samples`` (float32 or float64) are x and y in pixels of the point's level (0 is the center of the first pixel;
    outside is zero) and the logit of the attention, whose softmax goes over the L * P points.
    """
    if value.is_cuda and samples.dtype == torch.float32 and find_spec("triton"):
        from m2f_batch.models.mask2former.deformable_triton import sample

        return sample(value, samples, sizes)
    few = min(min(size) for size in sizes) < 2 or value.shape[1] * value.shape[2] >= 2**24
    if few or value.device.type != "cpu":
        return with_grid_sample(value, samples, sizes)
    return with_embedding_bag(value, samples, sizes)


def with_embedding_bag(value: Tensor, samples: Tensor, sizes: tuple[Size, ...]) -> Tensor:
    """On CPU, for levels of at least 2 x 2 pixels and less than 2 ** 24 rows of value per image."""
    batch, pixels, heads, channels = value.shape
    queries, count = samples.shape[1], samples.shape[4]
    table = _row_table.__wrapped__ if torch.compiler.is_compiling() else _row_table  # Dynamo looks into no cache
    last, factor, first, steps = table(sizes, heads, count // len(sizes), samples.dtype, samples.device)
    xy, logits = samples[:, :, :2], samples[:, :, 2]
    # The corner is kept where all four pixels exist; from there the tent function gives the bilinear weights, zero
    # outside the map too. NaN samples give NaN weights, but their indices must stay inside.
    corner = xy.nan_to_num().clamp_(torch.zeros_like(last), last).floor_()
    right = xy - corner
    left = _tent(right)
    right = _tent(right.sub_(1))
    row = corner.mul_(factor).sum(2).add_(first).to(torch.int32)  # exact: whole numbers below 2 ** 24
    if batch > 1:
        row += torch.arange(batch, dtype=torch.int32)[:, None, None, None] * (pixels * heads)
    attention = _softmax(logits)
    upper, lower = attention * left[:, :, 1], attention * right[:, :, 1]
    corners = ((upper, left), (upper, right), (lower, left), (lower, right))
    indices = torch.stack([row + step for step in steps], dim=3)  # faster than writing into a part of a tensor
    weights = torch.stack([by_y * by_x[:, :, 0] for by_y, by_x in corners], dim=3)
    bags = F.embedding_bag(
        indices.view(-1, 4 * count),
        value.reshape(-1, channels).to(weights.dtype),
        per_sample_weights=weights.view(-1, 4 * count),
        mode="sum",
    )
    return bags.view(batch, queries, heads * channels).to(value.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves a training, too
def _row_table(
    sizes: tuple[Size, ...], heads: int, points: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Return the numbers by which a corner (x, y) of a point becomes a row of the value.

    The last corner that has a neighbor right and below [2, H, L * P], the factors of x and y [2, H, L * P], the first
    row of each level and head [H, L * P], and the steps to the four corners [H, L * P].
    """
    areas = [height * width for height, width in sizes]
    numbers = torch.tensor([[size[1], size[0], sum(areas[:i])] for i, size in enumerate(sizes)], dtype=dtype)
    width, height, start = numbers.repeat_interleave(points, 0).T[:, None].expand(-1, heads, -1).to(device)
    one = torch.full_like(width, heads)
    first = start * heads + torch.arange(heads, dtype=dtype, device=device)[:, None]
    steps = [step.to(torch.int32) for step in (torch.zeros_like(one), one, width * heads, width * heads + one)]
    return torch.stack((width, height)) - 2, torch.stack((one, width * heads)), first, tuple(steps)


def _tent(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).relu_()


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, because torch's own does not vectorize rows as short as these."""
    shifted = (logits - logits.amax(-1, keepdim=True)).exp_()
    return shifted.div_(shifted.sum(-1, keepdim=True))


def with_grid_sample(value: Tensor, samples: Tensor, sizes: tuple[Size, ...]) -> Tensor:
    """Compute by the plain definition, on any device and any size."""
    batch, _, heads, channels = value.shape
    points = samples.shape[4] // len(sizes)
    xy, logits = samples[:, :, :2], samples[:, :, 2]
    attention = logits.softmax(-1).transpose(1, 2).flatten(0, 1)[:, None]  # [B * H, 1, M, L * P]
    maps = torch.split(value.to(samples.dtype), [height * width for height, width in sizes], dim=1)
    total = samples.new_zeros(())
    for level, (height, width) in enumerate(sizes):
        some = slice(level * points, (level + 1) * points)
        grid = xy[..., some].permute(0, 3, 1, 4, 2).flatten(0, 1)  # [B * H, M, P, 2]
        grid = (2 * grid + 1) / grid.new_tensor([width, height]) - 1
        pixels = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        sampled = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)
        total = total + (sampled * attention[..., some]).sum(-1)  # [B * H, D, M]
    return total.view(batch, heads * channels, -1).transpose(1, 2).to(value.dtype)
