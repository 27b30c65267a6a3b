"""A step is the same however it is spread over processes and forward passes, also with unequal numbers of masks."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from support.train_ranks import BATCH, of_rank, on_two_ranks, parts_of, rules, sample_of, small_model

from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.loop.step import NonFiniteStep, TrainedModel, train_step

STEPS, PLAIN_STEPS = 12, 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with the weights before each of some steps of one process."""
    folder = tmp_path_factory.mktemp("weights")
    torch.set_num_threads(1)
    model = small_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    losses = []
    for step in range(STEPS):
        torch.save(model.state_dict(), folder / f"{step}.pt")
        losses.append(
            train_step(step, parts_of(step, 0, 1, 1), TrainedModel(model, TRAINING), optimizer, rules(), CPU).loss
        )
    assert losses[-1] < losses[0]
    return folder


@pytest.fixture(scope="module")
def of_two(weights):
    """What two workers make of the steps, and what those of a plain loop do."""
    return dict(
        zip(("ours", "plain"), on_two_ranks(weights, [(STEPS, "float32"), (PLAIN_STEPS, "plain")]), strict=True)
    )


def assert_same(found, expected, relative):
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=relative), step
        difference = (ours["gradient"] - theirs["gradient"]).norm() / theirs["gradient"].norm()
        assert difference < relative, (step, float(difference))


def test_two_workers_do_what_one_does(weights, of_two):
    """From the same weights at each step, with other numbers of images and masks on each."""
    masks = [
        [sum(len(s.labels) for part in parts_of(step, rank, 2, 1) for s in part) for rank in (0, 1)]
        for step in range(STEPS)
    ]
    assert sum(a != b for a, b in masks) > STEPS // 2
    assert_same(of_two["ours"], of_rank(weights, STEPS, 1, "float32"), 1e-5)


def test_two_workers_of_a_plain_loop_do_something_else(weights, of_two):
    """Why the loss is ours: each rank of ``transformers`` + DDP divides by its own number of masks."""
    one = of_rank(weights, PLAIN_STEPS, 1, "plain")
    for ours, theirs in zip(of_two["plain"], one, strict=True):
        assert (ours["gradient"] - theirs["gradient"]).norm() / theirs["gradient"].norm() > 0.01


@pytest.mark.parametrize("accumulate", [2, 5])
def test_accumulated_passes_do_what_one_pass_does(weights, accumulate):
    assert_same(of_rank(weights, 4, accumulate, "float64"), of_rank(weights, 4, 1, "float64"), 1e-9)


def test_what_is_not_finite_is_named_and_changes_nothing():
    model = small_model()
    with torch.no_grad():
        model.class_predictor.weight[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    parts = parts_of(1, 0, 1, 1)
    with pytest.raises(NonFiniteStep, match="not finite for the images 5, 6, 7, 8, 9") as caught:
        train_step(1, parts, TrainedModel(model, TRAINING), optimizer, rules(), CPU)
    assert [sample.image_id for sample in caught.value.samples] == [*range(BATCH, 2 * BATCH)]
    skipping = rules().__class__(**{**vars(rules()), "skip_nonfinite": True})
    done = train_step(1, parts, TrainedModel(model, TRAINING), optimizer, skipping, CPU)
    assert done.skipped
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def poisoned(model):
    """A finite loss whose gradient is not (the square root at 0), and a batch norm, which sees the batch before."""
    head = model.class_predictor
    head.norm = torch.nn.BatchNorm1d(head.in_features)

    def forward(x):
        nothing = (head.weight - head.weight.detach()).sum().sqrt()
        return torch.nn.functional.linear(head.norm(x.flatten(0, 1)).view(x.shape), head.weight, head.bias) + nothing

    head.forward = forward
    return model


def test_a_gradient_that_is_not_finite_is_found_before_any_weight_is_changed():
    model = poisoned(small_model())
    before = copy.deepcopy(model.state_dict())
    assert any("running_mean" in name for name in before)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for group in optimizer.param_groups:
        group["initial_lr"] = 1e-3
    parts = parts_of(1, 0, 1, 2)
    with pytest.raises(
        NonFiniteStep, match=r"a gradient is not finite for the images 5, 6, 7, 8, 9; .*nonfinite"
    ) as caught:
        train_step(1, parts, TrainedModel(model, TRAINING), optimizer, rules(), CPU)
    assert [sample.image_id for sample in caught.value.samples] == [*range(BATCH, 2 * BATCH)]
    sent = pickle.loads(pickle.dumps(caught.value))
    assert str(sent) == str(caught.value) and type(sent) is NonFiniteStep
    model.load_state_dict(before)
    skipping = rules().__class__(**{**vars(rules()), "skip_nonfinite": True})
    assert train_step(1, parts, TrainedModel(model, TRAINING), optimizer, skipping, CPU).skipped
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)  # running statistics too


def test_a_step_without_any_object_reaches_all_weights():
    model = small_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    optimizer.param_groups[0]["initial_lr"] = 0.0
    done = train_step(0, [[sample_of(0), sample_of(4)]], TrainedModel(model, TRAINING), optimizer, rules(), CPU)
    assert done.parts["mask"] == done.parts["dice"] == 0
    assert done.loss > 0
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_objects_beyond_the_queries_are_counted():
    model = small_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    optimizer.param_groups[0]["initial_lr"] = 0.0
    few = replace(rules(), objective=replace(rules().objective, most_objects=2))
    samples = [sample_of(3), sample_of(1)]
    done = train_step(0, [samples], TrainedModel(model, TRAINING), optimizer, few, CPU)
    assert done.left_out == sum(max(0, len(sample.labels) - 2) for sample in samples) > 0
