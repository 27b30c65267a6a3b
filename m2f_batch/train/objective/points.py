"""Points of the mask loss: where they lie, and what maps and masks are there (bilinear).

Coordinates are (x, y) in [0, 1] of the canvas, as in PointRend. Values equal those of ``grid_sample`` with
``align_corners=False`` and zeros outside.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample


class ImagePoints(NamedTuple):
    """Points for one image in one step, float32. R is ``oversample_ratio`` x P.

    All objects of an image share ``candidates`` and ``spread``, which the paper's code draws for each: the expectation
    of every object's loss is the same, and a map is looked at once for all objects.
    """

    matching: Tensor  # [P, 2], for all layers
    candidates: Tensor  # [L, R, 2], of which each object takes the most uncertain
    spread: Tensor  # [L, P - uncertain, 2], which every object takes


def draw_points(
    seed: int, step: int, image_id: int, *, layers: int, points: int, candidates: int, uncertain: int
) -> ImagePoints:
    """Uniform points that follow from (seed, step, image id) alone: not from rank, batch, device or worker count."""
    words = np.random.SeedSequence([seed, step, image_id % (1 << 64)]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
    total = points + layers * (candidates + points - uncertain)
    drawn = torch.rand(total, 2, generator=generator)
    matching, rest = drawn[:points], drawn[points:].view(layers, -1, 2)
    return ImagePoints(matching, rest[:, :candidates], rest[:, candidates:])


def most_uncertain(values: Tensor, points: Tensor, count: int) -> Tensor:
    """The ``count`` points [M, count, 2] of [R, 2] where each of M maps is nearest to 0, in no order.

    ``values`` [M, R] are the maps' there. PointRend's importance sampling (its section 3.2).
    """
    chosen = _smallest(values.abs(), count)
    return points.index_select(0, chosen.flatten()).view(len(values), count, 2)


def _smallest(values: Tensor, count: int) -> Tensor:
    """The places of the ``count`` smallest of each row [M, R]: int64 [M, count], in no order."""
    if values.device.type == "cpu" and count:  # numpy's selection takes a fifth of the time of torch's there
        return torch.from_numpy(np.argpartition(values.numpy(), count - 1, axis=1)[:, :count])
    return values.topk(count, dim=1, largest=False, sorted=False).indices


def sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """Maps [M, h, w] at the same points [R, 2] in all of them: [M, R]. Carries no gradient.

    A point's four pixels and their weights are found once for all maps.
    """
    corners, weights = _corners(points.to(maps.dtype), maps.shape[-2], maps.shape[-1])
    table = maps.detach().flatten(1).T.contiguous()
    return embedding_bag(corners, table, per_sample_weights=weights, mode="sum").T


def sample_own(maps: Tensor, points: Tensor, outside: str = "zeros") -> Tensor:
    """Maps [M, h, w], each at points of its own [M, P, 2]: [M, P], with gradients to the maps.

    ``outside`` is the padding mode: what lies beyond the outermost pixels' centers.
    """
    grid = 2 * points.to(maps.dtype)[:, None] - 1
    return grid_sample(maps[:, None], grid, padding_mode=outside, align_corners=False)[:, 0, 0]


def counted(ignored: Tensor | None, points: Tensor) -> Tensor | None:
    """Return the weights of points [M, P, 2] of an image, [M, P] in [0, 1]: 0 where pixels [H, W] are ignored (1.0)."""
    if ignored is None:
        return None
    return 1 - sample_own(ignored.expand(len(points), -1, -1), points, outside="border")


def repeated(points: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Points [P, 2] of each image, once for each of its objects: [M, P, 2]."""
    return torch.cat([each.expand(count, *each.shape) for each, count in zip(points, counts, strict=True)])


def _corners(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four pixels around points [R, 2], as places in a flat map, and their bilinear weights: both [R, 4]."""
    # in the order of grid_sample's own arithmetic, so that rounding agrees
    x = ((2 * points[:, 0] - 1 + 1) * width - 1) / 2
    y = ((2 * points[:, 1] - 1 + 1) * height - 1) / 2
    left, top = x.floor(), y.floor()
    right_part, lower_part = x - left, y - top
    # nothing is outside: what would be read there weighs nothing
    columns = [(left.clamp(min=0), (1 - right_part) * (left >= 0))]
    columns.append(((left + 1).clamp(max=width - 1), right_part * (left + 1 < width)))
    rows = [(top.clamp(min=0), (1 - lower_part) * (top >= 0))]
    rows.append(((top + 1).clamp(max=height - 1), lower_part * (top + 1 < height)))
    places = torch.stack([row * width + column for row, _ in rows for column, _ in columns], 1)
    return places.long(), torch.stack([part * share for _, part in rows for _, share in columns], 1)
