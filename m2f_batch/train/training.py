"""Trains in one process, or on each of several ranks: start or resume, steps, validations, checkpoints, the end.

Rank 0 writes, and all ranks take the same decisions. After a kill at any moment the same command goes on from the last
whole checkpoint, and the steps after it are those of a training never disturbed.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from m2f_batch.datasets.lint.warnings import enough_queries
from m2f_batch.evaluation.evaluator import MAIN
from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.train import distributed
from m2f_batch.train.data.samples import Recipe
from m2f_batch.train.data.stream import Span, Step
from m2f_batch.train.layout import complete
from m2f_batch.train.loop.ema import MovingAverage
from m2f_batch.train.loop.memory import keep_memory, memory_explained
from m2f_batch.train.loop.optimizer import new_optimizer
from m2f_batch.train.loop.progress import Progress, first_loss
from m2f_batch.train.loop.schedule import rate_factor
from m2f_batch.train.loop.step import Done, NonFiniteStep, Rules, TrainedModel, train_step
from m2f_batch.train.loop.validation import Best, patience_used, validate
from m2f_batch.train.network.freezing import train_mode
from m2f_batch.train.objective.objective import objective_of
from m2f_batch.train.output import checkpoints
from m2f_batch.train.output.checkpoints import Writer, snapshot
from m2f_batch.train.output.metrics_log import MetricsLog
from m2f_batch.train.output.tuned_model import save_everywhere, save_model, write_model, write_nonfinite
from m2f_batch.train.start.build import New, Start, backbone_multiplier, keeps_batch_norms, new_model
from m2f_batch.train.start.job import TrainJob

LINES = 1000  # of metrics.jsonl for training steps, at most
Stream = Callable[[Recipe, Span], Iterator[Step]]
Say = Callable[[str], None]


class Stopped(Exception):  # no error
    """A training was asked to stop, and has written its checkpoint."""


@dataclass(frozen=True)
class Means:
    """The means of one process: its examples (``stream``), ``device`` and ``threads``.

    On rank 0 ``say`` gets lines for people, and once ``is_stopping`` training ends with a checkpoint.
    """

    stream: Stream
    device: torch.device
    threads: int
    say: Say
    is_stopping: Callable[[], bool]


@dataclass
class State:
    """The state of a training after ``step`` steps."""

    start: Start
    optimizer: torch.optim.Optimizer
    ema: MovingAverage | None
    step: int = 0
    best: Best | None = None
    worse: int = 0  # validations since the best one
    skipped: int = 0
    left_out: int = 0

    def tensors(self) -> dict[str, Any]:
        """Return all tensors that resuming needs, on the CPU."""
        ema = None if self.ema is None else self.ema.state_dict()
        return snapshot({"model": self.start.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": ema})

    def numbers(self) -> JsonObject:
        """Return all else that resuming needs, as JSON."""
        return {
            "best": self.best and self.best.tree,
            "worse": self.worse,
            "skipped": self.skipped,
            "left_out": self.left_out,
        }

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model its averaged weights, where there are any, as it is validated and kept."""
        return nullcontext() if self.ema is None else self.ema.applied(self.start.model)

    def load(self, step: int, tensors: dict[str, Any], numbers: JsonObject, main: str) -> None:
        """Resume from a checkpoint."""
        self.start.model.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(tensors["ema"])
        self.step, self.worse = step, numbers["worse"]
        self.best = None if numbers["best"] is None else Best.of(numbers["best"], main)
        self.skipped, self.left_out = numbers["skipped"], numbers["left_out"]


def train(job: TrainJob, place: HeldFolder, means: Means, new: New | None = None) -> None:
    """Train to the end from the last checkpoint, and write the tuned model. Raises what ends a training early.

    When asked to stop, rank 0 writes a checkpoint after the step and raises Stopped, while the others wait until they
    are ended. ``new`` is the model of ``new_model``, if it is built already.
    """
    torch.set_num_threads(means.threads)
    if means.device.type == "cpu":
        keep_memory()
    if job.config.train.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    with memory_explained():
        state = _begun(job, place, means, new or new_model(job))
    log = MetricsLog(place, state.step)
    with memory_explained(), Writer() as writer, TemporaryDirectory(prefix="m2f-batch-") as scratch:
        try:
            _steps(job, place, means, state, log, writer, Path(scratch))
        except NonFiniteStep as error:
            write_nonfinite(place, state.step, error)
            # Barrier: every rank raises only after all have written, because the first to exit would kill the others.
            distributed.gathered(None)
            raise
        writer.wait()
        if distributed.rank() == 0:
            _finish(job, place, state, log, Path(scratch), means.say)
    distributed.gathered(None)  # barrier: no rank leaves before all is written


def _begun(job: TrainJob, place: HeldFolder, means: Means, new: New) -> State:
    """Set up the model, new or as in the newest checkpoint."""
    settings, start = job.config.train, new.start
    start.model.to(means.device)
    optimizer = new_optimizer(
        start.model,
        backbone=start.training.backbone,
        learning_rate=settings.learning_rate,
        backbone_multiplier=backbone_multiplier(start, settings),
        weight_decay=settings.weight_decay,
    )
    ema = None if settings.ema is None else MovingAverage(start.model, settings.ema)
    state = State(start, optimizer, ema)
    steps = complete(place) if distributed.rank() == 0 else []
    found = (steps[-1], *checkpoints.read(place, steps[-1])) if steps else None
    found = distributed.from_first_rank(found)
    if found is not None:
        step, tensors, numbers = found
        state.load(step, tensors, numbers, MAIN[job.task])
        means.say(f"resume  step {state.step} of {job.steps}")
    else:
        for note in new.notes:
            means.say(f"model   {note}")
    return state


def _steps(
    job: TrainJob, place: HeldFolder, means: Means, state: State, log: MetricsLog, writer: Writer, scratch: Path
) -> None:
    settings, model = job.config.train, state.start.model
    network: nn.Module = TrainedModel(model, state.start.training)
    if distributed.size() > 1:
        network = DistributedDataParallel(network, device_ids=[means.device] if means.device.type == "cuda" else None)
    rules = _rules(job, state.start)
    every = max(1, job.steps // LINES)
    span = Span(state.step, job.steps, settings.batch_size, settings.accumulate, distributed.rank(), distributed.size())
    steps = means.stream(job.recipe(state.start.label_ids), span) if _goes_on(job, state) else ()
    with closing(Progress(span, means.say)) as progress:
        for parts in steps:
            train_mode(model, keep_batch_norms=keeps_batch_norms(state.start, settings))
            done = train_step(state.step, parts, network, state.optimizer, rules, means.device)
            state.step += 1
            progress.step(state.step, done.loss, done.parts)
            if state.step == 1 and not done.skipped:
                means.say(first_loss(done.loss, rules.objective.layers))
            if state.ema is not None and not done.skipped:
                state.ema.update(model)
            state.skipped += done.skipped
            state.left_out += done.left_out
            is_last = state.step == job.steps
            if state.step % every == 0 or is_last:
                log.note(state.step, "train", _metrics_of(done, state))
            is_validated = job.val is not None and (state.step % job.evaluate_every == 0 or is_last)
            if is_validated:
                _validate(job, state, means, log, scratch)
            stops = not is_last and distributed.rank() == 0 and means.is_stopping()
            if is_validated or is_last or stops or state.step % job.checkpoint_every == 0:
                _checkpoint(job, place, state, log, writer)
            elif distributed.rank() == 0 and log.is_due() and writer.is_idle:
                writer.submit(log.flush)
            if stops:
                writer.wait()
                raise Stopped
            if not _goes_on(job, state):
                return


def _goes_on(job: TrainJob, state: State) -> bool:
    patience = job.config.train.early_stopping
    return state.step < job.steps and (patience is None or state.worse < patience)


def _rules(job: TrainJob, start: Start) -> Rules:
    settings = job.config.train
    return Rules(
        objective=objective_of(start.training, start.model.config),
        plan=job.plan,
        canvas_hw=job.canvas_hw,
        seed=settings.seed,
        rate_at=partial(
            rate_factor,
            steps=job.steps,
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            milestones=settings.milestones,
        ),
        clip_norm=settings.clip_norm,
        bf16=settings.precision == "bf16",
        skip_nonfinite=settings.on_nonfinite == "skip",
    )


def _metrics_of(done: Done, state: State) -> dict[str, float]:
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    losses = {"loss": done.loss} | {f"loss_{name}": value for name, value in done.parts.items()}
    return {**losses, "gradient_norm": done.gradient_norm, "learning_rate": rate, "time": time()}


def _validate(job: TrainJob, state: State, means: Means, log: MetricsLog, scratch: Path) -> None:
    assert job.val is not None
    directory = scratch / f"validated-{distributed.rank()}"
    with state.averaged():
        save_everywhere(state.start.model, job.processor, directory)
    category_of = {label: index for index, label in enumerate(state.start.label_ids) if label >= 0}
    most = job.config.data.max_pixels
    summary = validate(directory, job.val, job.task, category_of, means.device.type, means.threads, most)
    if summary["warning"] is not None:
        means.say(f"note    {summary['warning']}")
    figures, main = summary["metrics"], MAIN[job.task]
    log.note(state.step, "validation", figures | {"time": time()})
    figure = -1.0 if figures[main] is None else figures[main]
    state.worse = patience_used(figure, None if state.best is None else state.best.figure, state.worse)
    is_best = state.best is None or figure >= state.best.figure  # of equals the later one, which has learned for longer
    if is_best:
        state.best = Best(state.step, main, figure, figures, summary["classes"])
    means.say(f"valid   step {state.step}: " + ", ".join(_shown(figures)) + (" (best)" if is_best else ""))


def _shown(figures: dict[str, float | None]) -> list[str]:
    return [f"{name} {value:.3f}" for name, value in figures.items() if value is not None][:6]


def _checkpoint(job: TrainJob, place: HeldFolder, state: State, log: MetricsLog, writer: Writer) -> None:
    if distributed.rank() != 0:
        return
    step, tensors, numbers = state.step, state.tensors(), state.numbers()
    best = None if state.best is None else state.best.step

    def act() -> None:
        log.flush()  # first, because a resume keeps the lines up to its checkpoint
        checkpoints.write(place, step, tensors, numbers)
        checkpoints.prune(place, job.config.train.keep, best)
        log.flush_events()

    writer.submit(act)


def _finish(job: TrainJob, place: HeldFolder, state: State, log: MetricsLog, scratch: Path, say: Say) -> None:
    """Write the best model, or the last, to OUTPUT itself."""
    model = state.start.model
    if state.best is not None and state.best.step != state.step:
        tensors, _ = checkpoints.read(place, state.best.step)
        model.load_state_dict(tensors["model"])
        if state.ema is not None:
            state.ema.load_state_dict(tensors["ema"])
    with state.averaged():
        save_model(model, job.processor, scratch / "tuned")
    log.finish()
    write_model(place, scratch / "tuned", job, state.step, state.best, state.start.notes)
    if state.left_out:
        objective = objective_of(state.start.training, model.config)
        enough = enough_queries(job.train, None, is_semantic=job.task == "semantic")
        say(
            f"warning {state.left_out:,} objects were left out of steps, in images with more than the model's "
            f"{objective.most_objects} queries; {enough}"
        )
    if state.skipped:
        say(f"warning {state.skipped} steps were skipped: their loss was not finite")
