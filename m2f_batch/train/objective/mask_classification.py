"""Mask classification is the objective of Mask2Former: cross-entropy of classes and masks, and dice, in every layer.

Paper, section 4.1, and ``SetCriterion`` of its code. With the same points it equals ``Mask2FormerLoss`` of
``transformers`` for a batch in one process; unlike that, it is divided by the totals of the whole step, so that it does
not matter how a batch is spread over ranks and forward passes (both losses of ``transformers`` are local means).
Shapes: L layers, B images, Q queries, C classes, M matched objects of the batch, P points.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from m2f_batch.models.predictions import Prediction, QueryLogits
from m2f_batch.train.objective.matcher import Pairs, match
from m2f_batch.train.objective.objective import BatchLoss, ImageTarget, LossSettings, StepTotals
from m2f_batch.train.objective.points import (
    ImagePoints,
    counted,
    draw_points,
    most_uncertain,
    repeated,
    sample_own,
    sample_shared,
)


@dataclass(frozen=True)
class MaskClassification:
    """The objective of a model with ``most_objects`` queries."""

    settings: LossSettings
    most_objects: int
    layers: int  # whose losses add up
    parts: tuple[str, ...] = ("class", "mask", "dice")

    @classmethod
    def of(cls, config: Any) -> "MaskClassification":
        """Return the objective of a model by its configuration of transformers."""
        settings = LossSettings.of(config)
        return cls(settings, config.num_queries, config.decoder_layers if settings.use_auxiliary_loss else 1)

    def totals(self, objects: Iterable[int], device: torch.device) -> StepTotals:
        """The totals of one optimizer step, from how many objects each image of this rank's share of it has."""
        return StepTotals.count(
            objects, num_queries=self.most_objects, no_object_weight=self.settings.no_object_weight, device=device
        )

    def loss(
        self,
        outputs: Sequence[Prediction],
        targets: Sequence[ImageTarget],
        totals: StepTotals,
        *,
        seed: int,
        step: int,
    ) -> BatchLoss:
        """Return the loss of one forward pass (``batch_loss``), from the predictions of every layer."""
        of_queries = [output for output in outputs if isinstance(output, QueryLogits)]
        if len(of_queries) != len(outputs):
            kinds = sorted({type(output).__name__ for output in outputs})
            raise TypeError(f"mask classification learns from QueryLogits alone, not from {', '.join(kinds)}")
        classes, masks = [each.class_logits for each in of_queries], [each.mask_logits for each in of_queries]
        return batch_loss(classes, masks, targets, totals, self.settings, seed=seed, step=step)


OBJECTIVE = MaskClassification.of


def batch_loss(
    class_logits: Sequence[Tensor],
    mask_logits: Sequence[Tensor],
    targets: Sequence[ImageTarget],
    totals: StepTotals,
    settings: LossSettings,
    *,
    seed: int,
    step: int,
) -> BatchLoss:
    """Return the loss of one forward pass: class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of each layer.

    Computed in float32 whatever autocast says (float64 for float64 logits). The points follow from (seed, step, image
    id). Without objects it is still a function of all logits, so that gradients reach every parameter. Raises
    NonFiniteLoss when a matching cost is not finite.
    """
    first = 0 if settings.use_auxiliary_loss else len(class_logits) - 1
    class_logits, mask_logits = class_logits[first:], mask_logits[first:]
    points = [
        draw_points(
            seed,
            step,
            target.image_id,
            layers=len(class_logits),
            points=settings.train_num_points,
            candidates=settings.candidates,
            uncertain=settings.uncertain,
        )
        for target in targets
    ]
    points = [ImagePoints(*(tensor.to(mask_logits[0].device) for tensor in each)) for each in points]
    with torch.autocast(mask_logits[0].device.type, enabled=False):
        return loss_at(class_logits, mask_logits, targets, totals, settings, points)


def loss_at(
    class_logits: Sequence[Tensor],
    mask_logits: Sequence[Tensor],
    targets: Sequence[ImageTarget],
    totals: StepTotals,
    settings: LossSettings,
    points: Sequence[ImagePoints],
) -> BatchLoss:
    """Return ``batch_loss`` of all given layers at given points, one ``ImagePoints`` per image."""
    targets = [target.as_numbers(settings.dtype(mask_logits[0])) for target in targets]
    pairs = match(class_logits, mask_logits, targets, [each.matching for each in points], settings)
    addends: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
    for layer, (classes, masks, matched) in enumerate(zip(class_logits, mask_logits, pairs, strict=True)):
        ours = [(each.candidates[layer], each.spread[layer]) for each in points]
        mask, dice = _mask_losses(masks, targets, matched, ours, settings)
        entropy = _class_losses(classes, targets, matched, settings)
        addends["class"].append(settings.class_weight / totals.class_weight * entropy)
        addends["mask"].append(settings.mask_weight / totals.masks * mask)
        addends["dice"].append(settings.dice_weight / totals.masks * dice)
    per_image = {name: torch.stack(layers).sum(0) for name, layers in addends.items()}
    whole = torch.stack(list(per_image.values())).sum(0)
    return BatchLoss(
        whole.sum(),
        {name: values.detach().sum() for name, values in per_image.items()},
        tuple(target.image_id for target in targets),
        whole.detach(),
    )


def _class_losses(
    logits: Tensor, targets: Sequence[ImageTarget], pairs: Sequence[Pairs], settings: LossSettings
) -> Tensor:
    """Return weighted cross-entropy of the classes [B, Q, C + 1], summed over each image's queries: [B]."""
    images, queries, classes = logits.shape
    wanted = torch.full((images, queries), classes - 1, device=logits.device)
    for image, (answering, objects) in enumerate(pairs):
        wanted[image, answering.to(logits.device)] = targets[image].class_ids[objects.to(logits.device)]
    values = logits.to(settings.dtype(logits))
    weight = values.new_ones(classes)
    weight[-1] = settings.no_object_weight
    losses = cross_entropy(values.flatten(0, 1), wanted.flatten(), weight, reduction="none")
    return losses.view(images, queries).sum(1)


def _mask_losses(
    logits: Tensor,
    targets: Sequence[ImageTarget],
    pairs: Sequence[Pairs],
    points: Sequence[tuple[Tensor, Tensor]],
    settings: LossSettings,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks at their points, summed over each image's objects: two [B]."""
    device, counts = logits.device, [len(queries) for queries, _ in pairs]
    rows = torch.cat([queries + image * logits.shape[1] for image, (queries, _) in enumerate(pairs)]).to(device)
    image_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
    maps = logits.flatten(0, 1)[rows].to(settings.dtype(logits))
    if not len(rows):
        nothing = maps.flatten().sum().expand(len(counts))
        return nothing, nothing
    with torch.no_grad():
        chosen = _chosen_points(maps, counts, points, settings)
        inside = [
            sample_own(_of(target.masks, objects), where)
            for target, (_, objects), where in zip(targets, pairs, torch.split(chosen, counts), strict=True)
        ]
        weights = _weights(targets, torch.split(chosen, counts))
    losses = point_losses(sample_own(maps, chosen), torch.cat(inside), weights)
    empty = maps.new_zeros(len(counts))
    return empty.index_add(0, image_of, losses[0]), empty.index_add(0, image_of, losses[1])


def _chosen_points(
    maps: Tensor, counts: Sequence[int], points: Sequence[tuple[Tensor, Tensor]], settings: LossSettings
) -> Tensor:
    """Choose the points of each object's loss, float [M, P, 2]: the most uncertain ones first, then the spread."""
    uncertain = torch.cat(
        [
            most_uncertain(sample_shared(own, candidates), candidates, settings.uncertain)
            for own, (candidates, _) in zip(torch.split(maps, list(counts)), points, strict=True)
        ]
    )
    return torch.cat([uncertain, repeated([spread for _, spread in points], counts)], dim=1)


def _of(masks: Tensor, objects: Tensor) -> Tensor:
    """Return the masks of matched objects, ascending. Nothing is copied where all are matched, as is usual."""
    return masks if len(objects) == len(masks) else masks[objects.to(masks.device)]


def _weights(targets: Sequence[ImageTarget], points: Sequence[Tensor]) -> Tensor | None:
    """Return the weight of each point, [M, P] in [0, 1]. None when no image has ignored pixels."""
    if all(target.ignored is None for target in targets):
        return None
    each = [(target, where, counted(target.ignored, where)) for target, where in zip(targets, points, strict=True)]
    return torch.cat([target.masks.new_ones(where.shape[:2]) if some is None else some for target, where, some in each])


def point_losses(values: Tensor, inside: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy (mean over points) and dice of logits [M, P] with masks [M, P] in [0, 1]: two [M].

    ``weights`` [M, P] in [0, 1] say how much each point counts.
    """
    entropy = binary_cross_entropy_with_logits(values, inside, reduction="none")
    chances = values.sigmoid()
    if weights is None:
        means = entropy.mean(1)
    else:
        means = (entropy * weights).sum(1) / weights.sum(1).clamp(min=1)
        chances, inside = chances * weights, inside * weights
    return means, 1 - (2 * (chances * inside).sum(1) + 1) / (chances.sum(1) + inside.sum(1) + 1)
