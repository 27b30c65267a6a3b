"""One optimizer step of training, the same for one process and for many: forward, loss, backward, clip, update.

How a step's images are spread over processes and forward passes changes nothing but rounding: losses are divided by the
totals of the whole step, points and augmentation follow from seed, step and image.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2f_batch.errors import RunError
from m2f_batch.train import world
from m2f_batch.train.batches import on_device, too_many
from m2f_batch.train.forward import LayerLogits, layer_logits
from m2f_batch.train.loss import batch_loss
from m2f_batch.train.loss_parts import LossSettings, NonFiniteLoss, StepTotals
from m2f_batch.train.samples import Sample
from m2f_batch.train.stream import Step
from m2f_batch.vision.geometry import PreprocessPlan, SizeHW

PARTS = ("class", "mask", "dice")


class TrainedModel(nn.Module):
    """What DDP wraps: a Mask2Former of ``transformers`` whose forward is ``layer_logits``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> LayerLogits:
        """Pixel values [B, 3, H, W] to the logits of every layer."""
        return layer_logits(self.model, pixel_values)


@dataclass(frozen=True)
class Rules:
    """How steps are done: ``canvas_hw`` in pixels, ``rate_at`` the share of the learning rate's peak at a step."""

    loss: LossSettings
    plan: PreprocessPlan
    canvas_hw: SizeHW
    num_queries: int
    seed: int
    rate_at: Callable[[int], float]
    clip_norm: float | None
    bf16: bool
    skip_nonfinite: bool


@dataclass(frozen=True)
class Done:
    """What a step was like: the loss and its weighted parts over all processes, the gradients' norm before clipping.

    ``skipped``: the loss was not finite, and no weight changed. ``left_out``: objects beyond the queries.
    """

    loss: float
    parts: dict[str, float]
    gradient_norm: float
    skipped: bool
    left_out: int


class NonFiniteStep(RunError):
    """A step whose loss is not finite, with the examples of this process that it comes from; none if another's."""

    def __init__(self, error: NonFiniteLoss | None, samples: Sequence[Sample]) -> None:
        super().__init__("the loss of another worker is not finite" if error is None else str(error))
        self.samples = tuple(samples)


def train_step(
    step: int,
    parts: Step,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    rules: Rules,
    device: torch.device,
) -> Done:
    """Step ``step`` (from 0) on this process's micro-batches. Raises NonFiniteStep, on every process.

    ``network`` is a ``TrainedModel``, or DDP around one.
    """
    seed_everything(rules.seed, step)
    totals = StepTotals.count(
        (len(sample.labels) for part in parts for sample in part),
        num_queries=rules.num_queries,
        no_object_weight=rules.loss.no_object_weight,
        device=device,
    )
    optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(1 + len(PARTS), device=device, dtype=torch.float64)
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        with nullcontext() if is_last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            told, error = _backward(part, step, network, totals, rules, device)
        if told is None:
            if not rules.skip_nonfinite:
                raise NonFiniteStep(error, [] if error is None else part)
            optimizer.zero_grad(set_to_none=True)
            return Done(float("nan"), dict.fromkeys(PARTS, float("nan")), float("nan"), True, 0)
        sums += told
    # the paper clips all gradients together
    most = float("inf") if rules.clip_norm is None else rules.clip_norm
    norm = nn.utils.clip_grad_norm_(network.parameters(), most)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rules.rate_at(step)
    optimizer.step()
    left_out = sum(too_many(part, rules.num_queries) for part in parts)
    loss, *addends, all_left_out = world.total(torch.cat([sums / world.size(), sums.new_tensor([left_out])])).tolist()
    return Done(loss, dict(zip(PARTS, addends, strict=True)), float(norm), False, int(all_left_out))


def _backward(
    part: Sequence[Sample], step: int, network: nn.Module, totals: StepTotals, rules: Rules, device: torch.device
) -> tuple[Tensor | None, NonFiniteLoss | None]:
    """Gradients of one micro-batch, and its loss and parts [4]; None, and why, where any process's is not finite."""
    pixels, targets = on_device(part, rules.canvas_hw, rules.plan, device, rules.num_queries)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=rules.bf16):
        classes, masks = network(pixels.to(next(network.parameters()).dtype))
    wrong = None
    try:
        loss = batch_loss(classes, masks, targets, totals, rules.loss, seed=rules.seed, step=step)
        loss.check()
    except NonFiniteLoss as error:
        wrong = error
    if world.anyone(wrong is not None, device):  # before the gradients' own exchange, which would wait for ever
        return None, wrong
    loss.total.backward()  # type: ignore[no-untyped-call]  # torch's own
    return torch.stack([loss.total.detach(), *(loss.parts[name] for name in PARTS)]).double(), None


def seed_everything(seed: int, step: int) -> None:
    """What a model draws by itself (dropout, stochastic depth) follows from seed, step and rank: no state to keep."""
    words = np.random.SeedSequence([seed, step, world.rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
