"""The loss against transformers' own at the same points, and what only ours promises."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as reference

from m2f_batch.models.predictions import PixelLogits
from m2f_batch.train.objective.mask_classification import MaskClassification, batch_loss, loss_at, point_losses
from m2f_batch.train.objective.matcher import match, pairwise_costs
from m2f_batch.train.objective.objective import BatchLoss, ImageTarget, LossSettings, NonFiniteLoss, StepTotals
from m2f_batch.train.objective.points import ImagePoints, draw_points, sample_own, sample_shared

LAYERS, QUERIES, CLASSES = 3, 12, 5
SETTINGS = LossSettings(train_num_points=400)


def blobs(count: int, generator: torch.Generator, size: int = 48) -> Tensor:
    """Discs, bool [N, H, W], one of them empty when there are more than three."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size + 16), indexing="ij")
    centres = torch.randint(0, size, (count, 2), generator=generator).tolist()
    masks = torch.stack([(rows - y) ** 2 + (columns - x) ** 2 < 90 for y, x in centres] or [rows < 0])[:count]
    if count > 3:
        masks[1] = False
    return masks


def make(counts: list[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Any, Any, list[ImageTarget]]:
    """Logits of each layer that want gradients, and targets with so many objects."""
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(len(counts), QUERIES, CLASSES + 1, generator=generator, dtype=dtype) for _ in range(LAYERS)]
    masks = [5 * torch.randn(len(counts), QUERIES, 12, 16, generator=generator, dtype=dtype) for _ in range(LAYERS)]
    for tensor in [*classes, *masks]:
        tensor.requires_grad_()
    targets = [
        ImageTarget(100 + i, torch.randint(0, CLASSES, (count,), generator=generator), blobs(count, generator))
        for i, count in enumerate(counts)
    ]
    return classes, masks, targets


def totals_of(targets: list[ImageTarget]) -> StepTotals:
    return StepTotals.count(
        [len(t.class_ids) for t in targets], num_queries=QUERIES, no_object_weight=SETTINGS.no_object_weight
    )


def ours(classes: Any, masks: Any, targets: list[ImageTarget], settings: LossSettings = SETTINGS) -> BatchLoss:
    return batch_loss(classes, masks, targets, totals_of(targets), settings, seed=1, step=7)


def points_of(target: ImageTarget, settings: LossSettings = SETTINGS) -> ImagePoints:
    return draw_points(
        1, 7, target.image_id, layers=LAYERS, points=400, candidates=settings.candidates, uncertain=settings.uncertain
    )


@contextmanager
def same_points(targets: list[ImageTarget], matched: list[int], dtype: torch.dtype) -> Iterator[None]:
    """``transformers`` draws the points of these images, in the order in which it asks for them."""
    points = [points_of(target) for target in targets]
    answers: list[Tensor] = []
    for layer in [LAYERS - 1, *range(LAYERS - 1)]:
        answers += [each.matching[None] for each in points]
        for name in ("candidates", "spread"):
            rows = [
                getattr(each, name)[layer].expand(count, -1, -1) for each, count in zip(points, matched, strict=True)
            ]
            answers.append(torch.cat(rows))

    class Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def rand(self, *shape: int, device: Any = None) -> Tensor:
            answer = answers.pop(0)
            assert answer.shape == shape
            return answer.to(dtype)

    kept = reference.torch
    reference.torch = Torch()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reference.torch = kept  # type: ignore[attr-defined]
    assert not answers


def theirs(classes: Any, masks: Any, targets: list[ImageTarget]) -> Tensor:
    """The weighted loss of ``transformers`` at our points."""
    config = Mask2FormerConfig(train_num_points=400, id2label={i: str(i) for i in range(CLASSES)})
    dtype = masks[0].dtype
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    criterion = reference.Mask2FormerLoss(config, weights).to(dtype)
    criterion.empty_weight[-1] = SETTINGS.no_object_weight  # which it rounds to float32
    # of objects beyond the queries, which it leaves out of the sum but not of the number of masks, ours are cut before
    matched = sum(min(QUERIES, len(t.class_ids)) for t in targets)
    criterion.get_num_masks = lambda *_, **__: torch.tensor(max(matched, 1), dtype=dtype)
    auxiliary = [
        {"class_queries_logits": c, "masks_queries_logits": m} for c, m in zip(classes[:-1], masks[:-1], strict=True)
    ]
    with same_points(targets, [min(QUERIES, len(t.class_ids)) for t in targets], dtype):
        losses = criterion(
            masks[-1], classes[-1], [t.masks.to(dtype) for t in targets], [t.class_ids for t in targets], auxiliary
        )
    return sum(weight * value for key, weight in weights.items() for name, value in losses.items() if key in name)  # type: ignore[return-value]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("counts", [[5, 2], [1], [4, 0, 7], [QUERIES + 3, 2]])
def test_it_is_the_loss_of_transformers(counts: list[int], dtype: torch.dtype, tolerance: float) -> None:
    classes, masks, targets = make(counts, dtype)
    loss = ours(classes, masks, targets)
    want = theirs(classes, masks, targets)
    assert abs(loss.total - want) <= tolerance * abs(want)
    grads = torch.autograd.grad(loss.total, [*classes, *masks])
    wanted = torch.autograd.grad(want, [*classes, *masks])
    for grad, other in zip(grads, wanted, strict=True):
        assert (grad - other).norm() <= 10 * tolerance * other.norm()


def test_parts_and_images_add_up() -> None:
    classes, masks, targets = make([5, 0, 2])
    loss = ours(classes, masks, targets)
    assert torch.isclose(sum(loss.parts.values()), loss.total) and torch.isclose(loss.per_image.sum(), loss.total)  # type: ignore[arg-type]  # sum() may give 0
    assert loss.image_ids == (100, 101, 102) and set(loss.parts) == {"class", "mask", "dice"}


def test_without_auxiliary_losses_only_the_last_layer_counts() -> None:
    classes, masks, targets = make([5, 2])
    total = ours(classes, masks, targets, replace(SETTINGS, use_auxiliary_loss=False)).total
    total.backward()  # type: ignore[no-untyped-call]
    assert all(tensor.grad is None for tensor in [*classes[:-1], *masks[:-1]])
    last = ours(classes[-1:], masks[-1:], targets).total
    assert torch.equal(total, last)


def test_how_images_are_spread_over_passes_and_ranks_does_not_matter() -> None:
    """The sum of parts, divided by the totals of all, is the whole; unlike local means."""
    classes, masks, targets = make([5, 0, 1, 9])
    whole = ours(classes, masks, targets).total
    totals = totals_of(targets)
    parts = [
        batch_loss(
            [c[i][None] for c in classes], [m[i][None] for m in masks], [targets[i]], totals, SETTINGS, seed=1, step=7
        ).total
        for i in (2, 0, 3, 1)
    ]  # fmt: skip
    assert torch.isclose(torch.stack(parts).sum(), whole, rtol=1e-12)
    local = [theirs([c[i : i + 2] for c in classes], [m[i : i + 2] for m in masks], targets[i : i + 2]) for i in (0, 2)]
    assert not torch.isclose(torch.stack(local).mean(), whole, rtol=1e-4)


def test_points_follow_from_seed_step_and_image_alone() -> None:
    arguments = {"layers": 2, "points": 50, "candidates": 150, "uncertain": 30}
    first = draw_points(1, 7, 100, **arguments)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(first, draw_points(1, 7, 100, **arguments), strict=True))
    for other in [(2, 7, 100), (1, 8, 100), (1, 7, 101), (1, 7, -100)]:
        assert not torch.equal(first.matching, draw_points(*other, **arguments).matching)
    assert [tuple(each.shape) for each in first] == [(50, 2), (2, 150, 2), (2, 20, 2)]
    assert all(each.min() >= 0 and each.max() < 1 and abs(each.mean() - 0.5) < 0.1 for each in first)


def test_sampling_is_grid_sample() -> None:
    maps = torch.randn(3, 7, 9, dtype=torch.float64)
    points = torch.cat([torch.rand(200, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.01, 0.99]])]).double()
    want = grid_sample(maps[:, None], 2 * points.expand(3, -1, -1)[:, None] - 1, align_corners=False)[:, 0, 0]
    assert torch.allclose(sample_shared(maps, points), want, atol=1e-12)
    assert torch.allclose(sample_own(maps, points.expand(3, -1, -1)), want, atol=1e-12)


def test_an_empty_batch_has_gradients_for_all_logits_and_a_class_loss_only() -> None:
    classes, masks, targets = make([0, 0])
    loss = ours(classes, masks, targets)
    grads = torch.autograd.grad(loss.total, [*classes, *masks])
    assert all(grad.abs().sum() > 0 for grad in grads[:LAYERS])
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads[LAYERS:])
    assert loss.parts["mask"] == loss.parts["dice"] == 0 and loss.parts["class"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("image", "counts"), [(1, [3, 2]), (1, [3, 0]), (0, [0, 0])])
def test_numbers_that_are_not_finite_are_an_error_that_names_the_images(
    value: float, image: int, counts: list[int]
) -> None:
    for number in (0, 1):
        logits = make(counts)
        with torch.no_grad():
            logits[number][0][image] = value
        with pytest.raises(NonFiniteLoss) as caught:
            ours(*logits).check()
        assert caught.value.image_ids == (100 + image,) and str(100 + image) in str(caught.value)


def test_a_finite_loss_passes_its_check() -> None:
    ours(*make([3, 0])).check()


def test_bfloat16_logits_give_a_float32_loss() -> None:
    classes, masks, targets = make([5, 2], torch.float32)
    low = [c.detach().bfloat16() for c in classes], [m.detach().bfloat16() for m in masks]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ours(*low, targets)
    want = ours([c.float() for c in low[0]], [m.float() for m in low[1]], targets)
    assert loss.total.dtype == torch.float32 and torch.equal(loss.total, want.total)


def test_what_is_ignored_changes_nothing() -> None:
    """Logits of pixels whose four neighbours are ignored have no say, and no gradient from masks."""
    classes, masks, targets = make([4])
    ignored = torch.zeros(48, 64, dtype=torch.bool)
    ignored[:, 32:] = True
    targets = [targets[0]._replace(ignored=ignored)]
    settings = replace(SETTINGS, importance_sample_ratio=0.0)  # else logits decide where points are
    loss = ours(classes, masks, targets, settings)
    with torch.no_grad():
        for mask in masks:
            mask[..., 9:] = 3.0
    targets = [targets[0]._replace(masks=targets[0].masks | (torch.arange(64) > 32))]
    changed = ours(classes, masks, targets, settings)
    assert torch.allclose(changed.total, loss.total, rtol=1e-9)
    grads = torch.autograd.grad(changed.total, masks)
    assert all(torch.equal(grad[..., 9:], torch.zeros_like(grad[..., 9:])) and grad.any() for grad in grads)


def test_nothing_ignored_is_no_mask_of_ignored_pixels() -> None:
    classes, masks, targets = make([4, 2])
    none = [targets[0]._replace(ignored=torch.zeros(48, 64, dtype=torch.bool)), targets[1]]
    assert torch.isclose(ours(classes, masks, none).total, ours(classes, masks, targets).total, rtol=1e-12)


def test_pairwise_costs_are_those_of_single_pairs() -> None:
    values, inside = torch.randn(4, 30).double(), (torch.rand(3, 30) > 0.5).double()
    for weights in (None, torch.rand(1, 30).double()):
        entropy, dice = pairwise_costs(values, inside, weights)
        for q in range(4):
            for n in range(3):
                want = point_losses(values[q : q + 1], inside[n : n + 1], weights)
                assert torch.isclose(entropy[q, n], want[0]) and torch.isclose(dice[q, n], want[1])


def test_matching_finds_the_queries_that_answer() -> None:
    """Queries that show exactly an object and its class are matched with it, in every layer."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([torch.arange(48)[:, None].expand(48, 64) // 12 == i for i in range(4)])
    target = ImageTarget(1, torch.tensor([0, 1, 2, 2]), masks).as_numbers(torch.float64)
    classes, logits = torch.zeros(1, QUERIES, CLASSES + 1).double(), torch.full((1, QUERIES, 48, 64), -9.0).double()
    for row, query in enumerate([7, 3, 11, 0]):
        classes[0, query, target.class_ids[row]] = 9.0
        logits[0, query][masks[row]] = 9.0
    points = [torch.rand(200, 2, generator=generator)]
    for ((queries, objects),) in match([classes] * 2, [logits] * 2, [target], points, SETTINGS):
        assert queries.tolist() == [7, 3, 11, 0] and objects.tolist() == [0, 1, 2, 3]


def test_totals_count_what_can_be_matched() -> None:
    totals = StepTotals.count([3, QUERIES + 5, 0], num_queries=QUERIES, no_object_weight=0.1)
    assert totals.masks == 3 + QUERIES
    assert totals.class_weight == pytest.approx((3 + QUERIES) + 0.1 * (QUERIES - 3 + QUERIES))
    assert StepTotals.count([0], num_queries=4, no_object_weight=0.0) == StepTotals(1.0, 1.0)


def test_a_loss_at_given_points_is_that_of_its_layers() -> None:
    classes, masks, targets = make([5, 2])
    points = [points_of(target) for target in targets]
    assert torch.equal(
        loss_at(classes, masks, targets, totals_of(targets), SETTINGS, points).total,
        ours(classes, masks, targets).total,
    )


def test_logits_of_pixels_are_nothing_that_it_learns_from() -> None:
    objective = MaskClassification(SETTINGS, QUERIES, LAYERS)
    totals = objective.totals([1], torch.device("cpu"))
    with pytest.raises(TypeError, match="not from PixelLogits"):
        objective.loss([PixelLogits(torch.zeros(1, 3, 4, 4))], make([1])[2], totals, seed=0, step=1)
