"""The segment job from config to exit code: check everything, say the plan, hold OUTPUT, stream, verify."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.data import Dataset
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.flow.attempt.finish import FEW_FILES, say_nothing_to_do
from m2f_batch.flow.attempt.follow import Engine, Started, Stream, follow
from m2f_batch.flow.attempt.hold_output import Attempt, held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work, is_nothing_to_do, look, work_of
from m2f_batch.flow.attempt.plan_text import plan_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.crashes.gate import answer_of, gate_for
from m2f_batch.flow.dry_run import dry_run
from m2f_batch.flow.pipeline import Flow, build
from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.flow.unit.stages import COMMITTED_BEFORE
from m2f_batch.flow.watch.busy import Places
from m2f_batch.flow.workers import Steps, see_it_load
from m2f_batch.inputs.listing import list_input
from m2f_batch.inputs.places import check_output
from m2f_batch.messages.events import Events, route_logging
from m2f_batch.models.checkpoint import check_license, read_checkpoint
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.ray_session.session import (
    connected,
    held_now,
    may_grow,
    on_cluster,
    plan_resources,
    present,
    run_error,
    set_data_context,
    starts_nodes,
)
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.inspect.verify import Each
from m2f_batch.runs.plan import Units
from m2f_batch.storage.allow import confine
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.s3.settings import using
from m2f_batch.storage.store import Unreachable
from m2f_batch.vision.label_settings import settle

Results = Generator[dict[str, Any], None, None]
DRAIN_TIMEOUT = 5.0  # seconds for an answer of the gate


def segment(config: SegmentConfig, *, is_dry_run: bool = False, steps: Steps | None = None) -> int:
    """Segment every image of INPUT into one row in OUTPUT; returns the exit code.

    A dry run labels a few images, says what the whole would take, and writes nothing. Raises UsageError before anything
    is written, RunError when the run cannot go on (what is committed stays, and the same command goes on). Other
    ``steps`` stand in for decoding and the model, to measure what is around them.
    """
    places = {"input.uri": config.input.uri, "input.root": config.input.root, "output.uri": config.output.uri}
    events = Events(config.run.log)
    try:
        with using(config.storage.s3), confine(config.storage.allow, places):
            return _segment(config, is_dry_run, steps or Steps(), events)
    except (UsageError, RunError, TransientError) as error:
        events.failed(error)  # stderr says it too, but who reads a json log reads that
        raise


def _segment(config: SegmentConfig, is_dry_run: bool, steps: Steps, events: Events) -> int:
    job = check(config)
    with connected(config.compute):
        route_logging(events)
        grows = may_grow(config.compute)
        resources = plan_resources(config.compute, present(), may_grow=grows, starts_nodes=grows and starts_nodes())
        standing = retry_before_run(lambda: look(job.run))
        work = work_of(job, standing, resources.device)
        for line in plan_lines(job, resources, work, is_done=is_nothing_to_do(work, standing)):
            events.say(line, "plan")
        del standing, work  # with very many images each is as much as their listing, and it is looked at again
        compute = config.compute
        actor = ActorSettings(job.source, job.labeling, resources.device, compute.threads_per_actor, compute.batch_size)
        flow = Flow(
            job.run.uri,
            actor,
            resources,
            config.input.max_pixels,
            config.input.fetch_threads,
            steps=steps,
        )
        set_data_context(resources)
        try:
            if is_dry_run:
                return dry_run(job, flow, events)
            return _attempt(job, resources.device, events, partial(_on_ray, flow), on_cluster)
        except RayError as error:
            raise run_error(error) from None


def check(config: SegmentConfig) -> Job:
    """Everything that can be wrong with a job and seen before it starts; raises UsageError."""
    source = retry_before_run(lambda: find_model(config.model.uri, config.model.revision))
    checkpoint = read_checkpoint(retry_before_run(lambda: local_directory(source)), config.model.uri)
    check_license(checkpoint, config.model.allowed_licenses)
    labeling = settle(checkpoint, config.model, config.preprocess, config.postprocess)
    check_output(config.input.uri, config.output.uri)
    run = open_directory(config.output.uri)
    try:
        retry_before_run(lambda: _check_place(run, config.output.uri))
        held = retry_before_run(lambda: look(run)).run_id
    except Unreachable as error:
        raise RunError(f"output.uri: {error}; the same command may succeed later") from None
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError(f"output.uri: {error}") from None
    listing = list_input(config.input.uri, root=config.input.root)
    return Job(config, run, source, checkpoint, labeling, listing, held)


def _check_place(run: RunDirectory, uri: str) -> None:
    if "://" not in run.uri and run.store.stat(run.uri) is not None:
        raise UsageError(f"output.uri: {uri} is a file; give a directory")
    foreign = run.foreign_files()
    if foreign:
        raise UsageError(
            f"output.uri: {foreign[0]} is not ours, and readers would take it for rows; give another OUTPUT"
        )


def run(job: Job, device: str, stream: Stream) -> int:
    """The job in this process: ``stream`` labels and commits the units that it is given; returns the exit code."""
    # what is refused is refused before a lease is written
    work_of(job, retry_before_run(lambda: look(job.run)), device)

    def engine(attempt: Attempt, units: Units) -> Started:
        base = begin(attempt.run, attempt.work)
        return Started(stream(units), lambda: base, None, Places(device, fetch_threads=job.config.input.fetch_threads))

    return _attempt(job, device, Events(job.config.run.log), engine, map)


def _attempt(job: Job, device: str, events: Events, engine: Engine, each: Each) -> int:
    with held(job, device, events) as attempt:
        if is_nothing_to_do(attempt.work, attempt.standing):
            return say_nothing_to_do(attempt)
        try:
            return follow(attempt, engine, each)
        except RayError as error:
            failed = run_error(error)
            events.failed(failed)
            raise failed from None
        except BaseException as error:
            events.failed(error)
            raise
        finally:
            with suppress(TransientError, RunError):
                attempt.write_log()


def _on_ray(flow: Flow, attempt: Attempt, units: Units) -> Started:
    """The job on Ray: OUTPUT is opened on the cluster, where the first replica to have its model asks for it."""
    resources = flow.resources
    there, asked = resources.held(present()), partial(held_now, resources)
    places = Places(resources.device, there.preparing, flow.fetch_threads, there.replicas, asked)
    if not len(units):
        base = begin(attempt.run, attempt.work, on_cluster if attempt.work.change.rewritten > FEW_FILES else map)
        return Started(_nothing(), lambda: base, None, places)
    work = ray.put(attempt.work)
    gate = gate_for(flow.run_uri, attempt.fence, work, flow.resources.actors[1])

    def drained() -> bool:
        try:
            return bool(ray.get(gate.drain.remote(), timeout=DRAIN_TIMEOUT) == 0)
        except (RayError, GetTimeoutError):
            return True  # nobody to wait for

    def deaths() -> int:
        # asked every few seconds, also of a gate that was just closed: nobody is to wait for an answer
        try:
            return int(ray.get(gate.deaths.remote(), timeout=DRAIN_TIMEOUT))
        except (RayError, GetTimeoutError):
            return 0

    stream = _stream(build(units, replace(flow, fence=attempt.fence), gate))
    if attempt.work.change.rewritten > FEW_FILES:
        stream = _once_rewritten(flow, attempt, stream)
    opened = partial(answer_of, gate.opened)
    return Started(stream, opened, drained, places, deaths, partial(_kill, gate, work))


def _once_rewritten(flow: Flow, attempt: Attempt, stream: Results) -> Results:
    """``stream``, once CPUs of the cluster have made OUTPUT what the plan says: a GPU that was there would wait.

    As ever, nothing is written before a model was seen to load. The gate finds that nothing is left to do.
    """
    # without tries of Ray's own: it would start one that has too little memory again for ever
    looking = ray.remote(num_cpus=flow.resources.cpus_per_task, max_retries=0)(see_it_load)
    # where its process dies, a replica may still have the memory for it: then OUTPUT is opened as for few files
    with suppress(WorkerCrashedError, OutOfMemoryError, NodeDiedError):
        ray.get(looking.remote(flow.actor, flow.steps))
        attempt.events.say(f"rewrites {attempt.work.change.rewritten:,} files on CPUs first", "rewriting")
        begin(attempt.run, attempt.work, on_cluster)
    yield from stream


def _kill(gate: ActorHandle, _: "ray.ObjectRef[Work]") -> None:
    """The end of a gate, and of what is kept for it."""
    with suppress(RayError):
        ray.kill(gate)


def _nothing() -> Generator[dict[str, Any], None, None]:
    yield from ()


def _stream(dataset: Dataset) -> Generator[dict[str, Any], None, None]:
    """What became of each unit, as Ray Data commits them.

    Of one that was committed before nothing is said: either it was said then, or the files are counted at the end.
    """
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from (unit for unit in batch.to_pylist() if unit["transient"] != COMMITTED_BEFORE)
