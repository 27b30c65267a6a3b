"""Queries are matched with objects, one to one, in every layer and for a whole batch at once.

Paper, section 3.3 ("Optimization improvements") and ``HungarianMatcher`` of its code: the cost is that of the loss,
estimated at points that all queries and objects of an image share. Shapes: Q queries, N objects, P points, L layers.
"""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus

from m2f_batch.train.objective.objective import ImageTarget, LossSettings, NonFiniteLoss
from m2f_batch.train.objective.points import counted, repeated, sample_own, sample_shared

Pairs = tuple[Tensor, Tensor]  # queries [min(Q, N)] and their objects, ascending; int64, on the CPU


@torch.no_grad()
def match(
    class_logits: Sequence[Tensor],
    mask_logits: Sequence[Tensor],
    targets: Sequence[ImageTarget],
    points: Sequence[Tensor],
    settings: LossSettings,
) -> list[list[Pairs]]:
    """Pairs by layer and image, from class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of each layer.

    ``points`` [P, 2] are each image's own; the targets' masks are numbers. The device is waited for once. Raises
    NonFiniteLoss, which names the images whose cost is not finite.
    """
    costs = [
        _costs_of_image(
            [logits[image] for logits in class_logits],
            [logits[image] for logits in mask_logits],
            target,
            points[image],
            settings,
        )
        for image, target in enumerate(targets)
    ]
    on_cpu = _to_cpu(costs)
    wrong = [target.image_id for target, cost in zip(targets, on_cpu, strict=True) if not cost.isfinite().all()]
    if wrong:
        raise NonFiniteLoss(wrong, "the cost of matching queries with objects")
    counts = [len(target.class_ids) for target in targets]
    return [
        [_assign(cost[layer, :, :count]) for cost, count in zip(on_cpu, counts, strict=True)]
        for layer in range(len(class_logits))
    ]


def _costs_of_image(
    class_logits: list[Tensor], mask_logits: list[Tensor], target: ImageTarget, points: Tensor, settings: LossSettings
) -> Tensor:
    """Return the cost of each query for each object, in every layer: [L, Q, N], or [L, Q, 1] without objects."""
    dtype = settings.dtype(mask_logits[0])
    if not len(target.class_ids):
        # nothing to match, but numbers that are not finite must show
        sums = [c.sum(dtype=dtype) + m.sum(dtype=dtype) for c, m in zip(class_logits, mask_logits, strict=True)]
        return torch.stack(sums)[:, None, None].expand(-1, len(class_logits[0]), 1)
    inside = sample_own(target.masks, repeated([points], [len(target.masks)]))
    weights = counted(target.ignored, points[None])
    layers = []
    for classes, masks in zip(class_logits, mask_logits, strict=True):
        values = sample_shared(masks.to(dtype), points)
        cost_class = -classes.to(dtype).softmax(-1)[:, target.class_ids]
        cost_mask, cost_dice = pairwise_costs(values, inside, weights)
        layers.append(
            settings.mask_weight * cost_mask + settings.class_weight * cost_class + settings.dice_weight * cost_dice
        )
    return torch.stack(layers)


def pairwise_costs(values: Tensor, inside: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of logits [Q, P] with objects [N, P] in [0, 1], averaged over the points: two [Q, N].

    ``weights`` [1, P] in [0, 1] say how much points count. With softplus(-x) = softplus(x) - x the cross-entropy needs
    one matrix product, not two.
    """
    chances = values.sigmoid()
    level = softplus(values)
    total: Tensor | int = values.shape[1]
    if weights is not None:
        inside, chances, level = inside * weights, chances * weights, level * weights
        total = weights.sum().clamp(min=1)
    cross_entropy = (level.sum(1)[:, None] - values @ inside.T) / total
    dice = 1 - (2 * chances @ inside.T + 1) / (chances.sum(1)[:, None] + inside.sum(1) + 1)
    return cross_entropy, dice


def _to_cpu(costs: list[Tensor]) -> list[Tensor]:
    """Return all costs in one copy."""
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()
    parts = torch.split(flat, [cost.numel() for cost in costs])
    return [part.view(cost.shape) for part, cost in zip(parts, costs, strict=True)]


def _assign(cost: Tensor) -> Pairs:
    queries, objects = linear_sum_assignment(cost)
    order = objects.argsort()
    return torch.from_numpy(queries[order]), torch.from_numpy(objects[order])
