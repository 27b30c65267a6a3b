"""Runs the segment job from config to exit code: check, connect, decide and say the plan, hold OUTPUT, follow."""

from contextlib import suppress
from functools import partial

from ray.exceptions import RayError

from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import Plain, RunError, TransientError, UsageError
from m2f_batch.flow.attempt.finish import say_nothing_to_do
from m2f_batch.flow.attempt.follow import Engine, Started, Stream, follow
from m2f_batch.flow.attempt.hold_output import Attempt, held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Decision, decide, read_run_json, refused, run_id_of
from m2f_batch.flow.attempt.plan_text import plan_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.dry_run import dry_run
from m2f_batch.flow.engine import start_on_ray
from m2f_batch.flow.pipeline import Flow
from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.flow.watch.busy import Slots
from m2f_batch.flow.workers import Steps
from m2f_batch.inputs.listing import list_input
from m2f_batch.inputs.places import check_output
from m2f_batch.messages.events import Events, route_logging
from m2f_batch.models.checkpoint import check_license, read_checkpoint
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.ray_session.session import (
    connected,
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
from m2f_batch.vision.label_settings import settle


def segment(config: SegmentConfig, *, is_dry_run: bool = False, steps: Steps | None = None) -> int:
    """Segment every image of INPUT into one row in OUTPUT, and return the exit code.

    A dry run labels a few images, says what the whole would take, and writes nothing. Raises UsageError before anything
    is written. Raises RunError when the run cannot go on: what is committed stays, and the same command goes on.
    Benchmarks give other ``steps`` in place of decoding and the model.
    """
    places = {"input.uri": config.input.uri, "input.root": config.input.root, "output.uri": config.output.uri}
    events = Events(config.run.log)
    try:
        with using(config.storage.s3), confine(config.storage.allow, places):
            return _segment(config, is_dry_run, steps or Steps(), events)
    except (UsageError, RunError, TransientError) as error:
        events.failed(error)  # stderr says it too, but a json log must say it
        raise


def _segment(config: SegmentConfig, is_dry_run: bool, steps: Steps, events: Events) -> int:
    job = check(config)
    with connected(config.compute):
        route_logging(events)
        flow = _flow_of(job, steps)
        decision = decide(job, flow.resources.device)
        for line in plan_lines(job, flow.resources, decision):
            events.say(line, "plan")
        set_data_context(flow.resources)
        try:
            if is_dry_run:
                del decision  # with very many images it is as large as their listing
                return dry_run(job, flow, events)
            return _attempt(job, decision, flow.resources.device, events, partial(start_on_ray, flow), on_cluster)
        except RayError as error:
            raise run_error(error) from None


def _flow_of(job: Job, steps: Steps) -> Flow:
    """Plan what the replicas and tasks of a job get of the cluster that is connected."""
    compute, grows = job.config.compute, may_grow(job.config.compute)
    resources = plan_resources(compute, present(), may_grow=grows, starts_nodes=grows and starts_nodes())
    actor = ActorSettings(job.source, job.labeling, resources.device, compute.threads_per_actor, compute.batch_size)
    reading = job.config.input
    return Flow(job.run.uri, actor, resources, reading.max_pixels, reading.fetch_threads, steps=steps)


def check(config: SegmentConfig) -> Job:
    """Check all that can be wrong with a job and be seen before it starts. Raises UsageError."""
    source = retry_before_run(lambda: find_model(config.model.uri, config.model.revision))
    checkpoint = read_checkpoint(retry_before_run(lambda: local_directory(source)), config.model.uri)
    check_license(checkpoint, config.model.allowed_licenses)
    labeling = settle(checkpoint, config.model, config.preprocess, config.postprocess)
    check_output(config.input.uri, config.output.uri)
    run = open_directory(config.output.uri)
    with refused():
        retry_before_run(lambda: _check_place(run, config.output.uri))
        run_id = run_id_of(retry_before_run(lambda: read_run_json(run)))  # the rest is read once INPUT is listed
    listing = list_input(config.input.uri, root=config.input.root)
    return Job(config, run, source, checkpoint, labeling, listing, run_id)


def _check_place(run: RunDirectory, uri: str) -> None:
    if "://" not in run.uri and run.store.stat(run.uri) is not None:
        raise UsageError("is a file", field="output.uri", value=Plain(uri), hint="give a directory")
    foreign = run.foreign_files()
    if foreign:
        problem = "is not ours, and readers would take it for rows"
        raise UsageError(problem, field="output.uri", value=Plain(foreign[0]), hint="give another OUTPUT")


def run(job: Job, device: str, stream: Stream) -> int:
    """Run the job in this process: ``stream`` labels and commits the units that it gets. Returns the exit code."""
    decision = decide(job, device)

    def engine(attempt: Attempt, units: Units) -> Started:
        base = begin(attempt.run, attempt.work)
        return Started(stream(units), lambda: base, None, Slots(device, fetch_threads=job.config.input.fetch_threads))

    return _attempt(job, decision, device, Events(job.config.run.log), engine, map)


def _attempt(job: Job, decision: Decision, device: str, events: Events, engine: Engine, each: Each) -> int:
    with held(job, decision, device, events) as attempt:
        if attempt.decision.is_nothing_to_do:
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
