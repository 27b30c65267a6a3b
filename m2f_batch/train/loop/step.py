"""Does one optimizer step, the same for one process and for many: forward, loss, backward, clip, update.

The spread of a step's images over ranks and forward passes changes nothing but rounding, because losses are divided by
the totals of the whole step, and points and augmentation follow from seed, step and image. Dropout and stochastic depth
are drawn for each forward pass.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2f_batch.errors import RunError
from m2f_batch.models.predictions import Prediction
from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.models.training import Training
from m2f_batch.train import distributed
from m2f_batch.train.data.batches import on_device, too_many
from m2f_batch.train.data.samples import Sample
from m2f_batch.train.data.stream import Step
from m2f_batch.train.layout import NONFINITE
from m2f_batch.train.network.freezing import batch_norms
from m2f_batch.train.objective.objective import NonFiniteLoss, Objective, StepTotals


class TrainedModel(nn.Module):
    """DDP wraps this module, whose forward pass gives the predictions of every layer."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        super().__init__()
        self.model, self.outputs = model, training.outputs

    def forward(self, pixel_values: Tensor) -> Sequence[Prediction]:
        """Pixel values [B, 3, H, W] to the predictions of every layer, first to last."""
        return self.outputs(self.model, pixel_values)


@dataclass(frozen=True)
class Rules:
    """The settings of all steps: ``canvas_hw`` in pixels, ``rate_at`` the share of the peak learning rate at a step."""

    objective: Objective
    plan: PreprocessPlan
    canvas_hw: SizeHW
    seed: int
    rate_at: Callable[[int], float]
    clip_norm: float | None
    bf16: bool
    skip_nonfinite: bool


@dataclass(frozen=True)
class Done:
    """The figures of a step: the loss and its weighted parts over all ranks, the gradients' norm before clipping.

    A ``skipped`` step had a loss that was not finite, and changed no weight. ``left_out``: objects beyond the queries.
    """

    loss: float
    parts: dict[str, float]
    gradient_norm: float
    skipped: bool
    left_out: int


class NonFiniteStep(RunError):
    """A step whose loss or gradients are not finite, with the examples of this process that it comes from."""

    def __init__(self, message: str, samples: Sequence[Sample] = ()) -> None:
        super().__init__(message)
        self.samples = tuple(samples)

    def __reduce__(self) -> tuple[object, ...]:
        return NonFiniteStep, (str(self),)  # other processes need the message alone


def train_step(
    step: int,
    parts: Step,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    rules: Rules,
    device: torch.device,
) -> Done:
    """Do step ``step`` (from 0) on this process's micro-batches. Raises NonFiniteStep, on every rank.

    ``network`` is a ``TrainedModel``, or DDP around one.
    """
    seed_everything(rules.seed, step)
    optimizer.zero_grad(set_to_none=True)
    # the forward pass changes them before a loss is found not to be finite
    statistics = [buffer for norm in batch_norms(network) for buffer in norm.buffers()] if rules.skip_nonfinite else []
    before = [buffer.clone() for buffer in statistics]
    try:
        sums, norm = _gradients(step, parts, network, rules, device)
    except NonFiniteStep:
        if not rules.skip_nonfinite:
            raise
        optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
        return Done(float("nan"), dict.fromkeys(rules.objective.parts, float("nan")), float("nan"), True, 0)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rules.rate_at(step)
    optimizer.step()
    left_out = sum(too_many(part, rules.objective.most_objects) for part in parts)
    loss, *addends, all_left_out = distributed.total(
        torch.cat([sums / distributed.size(), sums.new_tensor([left_out])])
    ).tolist()
    return Done(loss, dict(zip(rules.objective.parts, addends, strict=True)), norm, False, int(all_left_out))


def _gradients(step: int, parts: Step, network: nn.Module, rules: Rules, device: torch.device) -> tuple[Tensor, float]:
    """Compute clipped gradients. Returns loss and parts of this process, float64 [4], and the norm before clipping."""
    totals = rules.objective.totals((len(sample.labels) for part in parts for sample in part), device)
    sums = torch.zeros(1 + len(rules.objective.parts), device=device, dtype=torch.float64)
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        with nullcontext() if is_last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            sums += _backward(part, step, network, totals, rules, device)
    # the paper clips all gradients together
    most = float("inf") if rules.clip_norm is None else rules.clip_norm
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), most))
    if not math.isfinite(norm):
        samples = [sample for part in parts for sample in part]
        raise _nonfinite("a gradient", [sample.image_id for sample in samples], samples)
    return sums, norm


def _backward(
    part: Sequence[Sample], step: int, network: nn.Module, totals: StepTotals, rules: Rules, device: torch.device
) -> Tensor:
    """Compute gradients of one micro-batch. Returns loss and parts, float64 [4]. Raises NonFiniteStep on all ranks."""
    pixels, targets = on_device(part, rules.canvas_hw, rules.plan, device, rules.objective.most_objects)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=rules.bf16):
        outputs: Sequence[Prediction] = network(pixels.to(next(network.parameters()).dtype))
    wrong = None
    try:
        loss = rules.objective.loss(outputs, targets, totals, seed=rules.seed, step=step)
        loss.check()
    except NonFiniteLoss as error:
        wrong = error
    if distributed.any_rank(wrong is not None, device):  # or the gradients' own exchange would wait for ever
        raise _nonfinite("the loss", [] if wrong is None else wrong.image_ids, [] if wrong is None else part)
    loss.total.backward()  # type: ignore[no-untyped-call]  # torch's own
    return torch.stack([loss.total.detach(), *(loss.parts[name] for name in rules.objective.parts)]).double()


def _nonfinite(what: str, image_ids: Sequence[int], samples: Sequence[Sample]) -> NonFiniteStep:
    """Make the same error on every rank. All ranks call this."""
    images = sorted(image for some in distributed.gathered(list(image_ids)) for image in some)
    return NonFiniteStep(
        f"{what} is not finite for the images {', '.join(map(str, images))}; they are kept in OUTPUT/{NONFINITE}, and "
        "train.on_nonfinite=skip leaves such steps out",
        samples,
    )


def seed_everything(seed: int, step: int) -> None:
    """Seed the model's draws (dropout, stochastic depth) by seed, step and rank, so that there is no state to keep."""
    words = np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
