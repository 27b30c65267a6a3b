"""Runs the finetune job from config to outcome: check, say the plan, hold OUTPUT, train here or on Ray."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from m2f_batch.config.finetune import FinetuneConfig, check_device
from m2f_batch.datasets.findings import near_names_last, stop
from m2f_batch.datasets.lint.masks import Setting
from m2f_batch.datasets.lint.warnings import queries_of, warnings_of
from m2f_batch.datasets.splits.train_val import places_of
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.evaluation.evaluator import MAIN
from m2f_batch.messages.notes import notes_to
from m2f_batch.result import Outcome, Report, unheard, warnings_in
from m2f_batch.runs.held_folder import HeldFolder, open_folder
from m2f_batch.signals import noticed_stops
from m2f_batch.storage.allow import confine
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.s3.settings import using
from m2f_batch.train.data.samples import Recipe
from m2f_batch.train.data.stream import Span, Step, maker, threaded_stream
from m2f_batch.train.layout import METRICS, complete
from m2f_batch.train.output.hold_output import held
from m2f_batch.train.output.metrics_log import Line, lines_of
from m2f_batch.train.output.output_state import check_place, goes_on, is_finished
from m2f_batch.train.output.training_info import read_tree, write_finished
from m2f_batch.train.start.job import TrainJob, check_images, plan_job

FEW_STEPS = 1000  # the default augment.scale was seen to cost at 100 and 400, and presets that scale have 3000 and more
NOTHING_KEPT = "stopped before there was a checkpoint, so the same command begins anew"


@dataclass(frozen=True)
class TrainTotals:
    """The end of a training, or how far it got.

    Attributes:
        step: optimizer steps that were trained.
        steps: of all.
        images: the number of images of each split.
        best: the figures of the best validation as shares of 1, None without one.
    """

    step: int
    steps: int
    images: Mapping[str, int]
    best: Mapping[str, Any] | None


def finetune(
    config: FinetuneConfig, *, say: Callable[[str], None] = unheard, report: Report[TrainTotals] | None = None
) -> Outcome[TrainTotals]:
    """Train as ``config`` says, leave the tuned model in OUTPUT, and return how far the training got.

    Nothing is printed but by ``say``. ``report`` gets the outcome of a training that is stopped or fails, too. Raises
    UsageError before anything is written. Raises RunError when training cannot go on: the same command goes on from the
    last checkpoint.
    """
    places = {**places_of(config.data), "output.uri": config.output.uri}
    listener = None if say is unheard else say
    with notes_to(listener), using(config.storage.s3), confine(config.storage.allow, places):
        return _finetune(config, say, report)


def _finetune(
    config: FinetuneConfig, say: Callable[[str], None], report: Report[TrainTotals] | None
) -> Outcome[TrainTotals]:
    with near_names_last(stop) as noted:
        job = plan_job(config, noted)
        info = check_place(job)
        if not is_finished(info, job):
            check_images(job)
    plan = plan_lines(job)
    for line in plan:
        say(line)
    if not is_finished(info, job) and _trained(job, say, report, is_new=not goes_on(info, job)):
        say(f"done    m2f-batch segment INPUT OUTPUT --model {config.output.uri} --task {job.task}")
    else:
        say(f"done    nothing to do: {config.output.uri} holds the finished model")
    return replace(outcome_of(job), warnings=warnings_in(plan))


def _trained(job: TrainJob, say: Callable[[str], None], report: Report[TrainTotals] | None, *, is_new: bool) -> bool:
    """Train while OUTPUT is held, and return whether there was anything to do. What is reported is read after that."""
    is_begun = False
    try:
        with ExitStack() as session:
            train = _on_ray(job, session, say, is_new=is_new) if on_ray(job.config) else _here(job, say)
            with held(job, say) as ours:
                if ours.is_finished:  # another command, for which this one waited, has finished it
                    return False
                is_begun = True
                try:
                    with session.pop_all():  # workers end before OUTPUT is let go
                        train(ours.place)
                except KeyboardInterrupt:
                    say(_stopped(job, ours.place))
                    raise
                write_finished(ours.place)
    except BaseException:
        if is_begun and report is not None:
            report(outcome_of(job))
        raise
    return True


def _stopped(job: TrainJob, place: HeldFolder) -> str:
    try:
        step = max(complete(place), default=0)
    except (RunError, TransientError):  # people stop a command whose storage does not answer
        return "stopped, and the same command goes on from the last checkpoint"
    return f"stopped, and the same command goes on from step {step} of {job.steps}" if step else NOTHING_KEPT


def outcome_of(job: TrainJob) -> Outcome[TrainTotals]:
    """Read from OUTPUT how far the training got, as far as its storage answers."""
    info: JsonObject = {}
    place = open_folder(job.config.output.uri)
    lines: list[Line] = []
    step = 0
    with suppress(RunError, TransientError, ValueError, LookupError):  # lost storage may have ended the training
        info = read_tree(place) or {}
        step = max(complete(place), default=0)
        lines = lines_of(place.store.read(place.path(METRICS)))
    main = MAIN[job.task]
    valid = [line for line in lines if line.kind == "validation" and main in line.figures]
    best = max(valid, key=lambda line: (line.figures[main], line.step), default=None)
    totals = TrainTotals(
        step=max([step, *(line.step for line in lines)]),
        steps=job.steps,
        images={"train": job.train.table.num_rows, "val": 0 if job.val is None else job.val.table.num_rows},
        best=None if best is None else {k: v for k, v in best.tree.items() if k not in ("kind", "time")},
    )
    return Outcome(job.config.output.uri, info.get("run_id"), totals)


def on_ray(config: FinetuneConfig) -> bool:
    """Return whether Ray is needed: for several workers, or on a cluster."""
    return config.train.workers != 1 or bool(config.compute.address or os.environ.get("RAY_ADDRESS"))


def plan_lines(job: TrainJob) -> list[str]:
    """Return the lines of the plan, with warnings about the annotations.

    Raises UsageError where ``data.group_by`` is given, and ``data.val`` has images of a group that is trained on.
    """
    train, height_width = job.config.train, job.canvas_hw
    queries = queries_of(job.config.model.config, job.checkpoint())
    setting = Setting(height_width, job.config.augment.scale, queries, job.task == "semantic")
    start = job.config.model.uri or job.config.model.backbone or "random weights"
    validation = "none" if job.val is None else f"{job.val.table.num_rows} images every {job.evaluate_every} steps"
    return [
        f"data    {job.train.table.num_rows} images, {len(job.train.categories)} categories, {job.task}: "
        f"{job.learnable}",
        f"valid   {validation}",
        f"start   {start}",
        f"train   {job.steps} steps of {train.batch_size} images at {height_width[1]} x {height_width[0]} pixels, "
        f"{train.workers} worker{'s' if train.workers != 1 else ''}, {train.precision}",
        *_doubts(job),
        *_notes_on_few_steps(job),
        *warnings_of(job.train, job.val, setting, job.config.data.group_by),
    ]


def _doubts(job: TrainJob) -> list[str]:
    doubt = None if job.config.output.normalize is not None else job.plan.doubt()
    return [f"warning {doubt}; the key is output.normalize"] if doubt else []


def _notes_on_few_steps(job: TrainJob) -> Iterator[str]:
    """Yield what a short training should set otherwise. Measured by benchmarks/training/short_training.py."""
    augment = job.config.augment
    if job.steps < FEW_STEPS and "scale" not in augment.model_fields_set:
        yield (
            f"note    {job.steps} steps are few for augment.scale {list(augment.scale)}, the paper's for 50 epochs: "
            "[1, 1] did better on average (jobs/presets/short.yaml)"
        )


def _on_ray(
    job: TrainJob, session: ExitStack, say: Callable[[str], None], *, is_new: bool
) -> Callable[[HeldFolder], None]:
    """Return the function that trains on Ray. Raises UsageError for all that is wrong with the settings, RunError."""
    from m2f_batch.train.workers.ray_train import cluster

    if is_new:  # a training that goes on has been through this
        from m2f_batch.train.start.build import (
            new_model,  # takes seconds, for a mistake that would else be found late
        )

        new_model(job)
    return session.enter_context(cluster(job, say))


def _here(job: TrainJob, say: Callable[[str], None]) -> Callable[[HeldFolder], None]:
    """Return the function that trains here. Raises UsageError for all that is wrong with the settings, RunError."""
    import torch

    from m2f_batch.train.start.build import new_model
    from m2f_batch.train.training import Means, Stopped, train
    from m2f_batch.vision.device.gpu import check_gpu

    compute = job.config.compute
    device = compute.device if compute.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("'cuda' is not to be had here", field="compute.device", allowed="auto, cpu")
    check_gpu(torch.device(device))
    check_device(job.config, device)
    cpus = len(os.sched_getaffinity(0))
    threads = compute.threads_per_worker or cpus
    readers = compute.data_cpus or max(1, cpus - 1 if device == "cpu" else cpus)
    new = new_model(job)

    def stream(recipe: Recipe, span: Span) -> Iterator[Step]:
        return threaded_stream(maker(job.train, recipe), span, readers)

    asked = threading.Event()

    def drained() -> bool:
        asked.set()
        return False  # training returns once it is drained

    def here(place: HeldFolder) -> None:
        with noticed_stops(drained), suppress(Stopped):
            train(job, place, Means(stream, torch.device(device), threads, say, asked.is_set), new)

    return here
