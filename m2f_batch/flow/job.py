"""Runs the segment job from config to outcome: check, connect, decide and say the plan, hold OUTPUT, follow."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from ray.exceptions import RayError

from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import Plain, RunError, TransientError, UsageError
from m2f_batch.flow.attempt.finish import say_nothing_to_do
from m2f_batch.flow.attempt.follow import Engine, Started, Stream, follow
from m2f_batch.flow.attempt.hold_output import Attempt, held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Decision, check_same_input, decide, read_run_json, refused, run_id_of
from m2f_batch.flow.attempt.plan_text import plan_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.dry_run import Forecast, probed
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
from m2f_batch.ray_session.data_settings import set_data_context
from m2f_batch.ray_session.errors import run_error
from m2f_batch.ray_session.nodes import may_grow, present, starts_nodes
from m2f_batch.ray_session.resources import plan_resources
from m2f_batch.ray_session.session import connected
from m2f_batch.ray_session.tasks import on_cluster
from m2f_batch.result import Outcome, Report, unheard, warnings_in
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.info import RunTotals
from m2f_batch.runs.inspect.verify import Each
from m2f_batch.runs.plan import Units
from m2f_batch.storage.allow import confine
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.s3.settings import using
from m2f_batch.vision.label_settings import settle


def segment(
    config: SegmentConfig,
    *,
    events: Events | None = None,
    report: Report[RunTotals] = unheard,
    steps: Steps | None = None,
) -> Outcome[RunTotals]:
    """Segment every image of INPUT into one row in OUTPUT, and return the counts with what the command ends with.

    Nothing is printed but by ``events``. ``report`` gets the outcome so far every few seconds. Raises UsageError before
    anything is written. Raises RunError when the run cannot go on: what is committed stays, and the same command goes
    on. Benchmarks give other ``steps`` in place of decoding and the model.
    """
    events = events or Events(config.run.log)
    with _session(config, steps or Steps(), events) as (job, flow):
        decision = _decided(job, flow, events)
        engine = partial(start_on_ray, flow)
        outcome = _attempt(job, decision, flow.resources.device, events, report, engine, on_cluster)
    return replace(outcome, warnings=warnings_in(events.messages()))


def forecast(config: SegmentConfig, *, events: Events | None = None) -> Forecast:
    """Label a few images of INPUT, and return what the whole would take. Writes nothing.

    Raises UsageError, and RunError when no image could be fetched.
    """
    events = events or Events(config.run.log)
    with _session(config, Steps(), events) as (job, flow):
        _decided(job, flow, events)  # and let go: with very many images it is as large as their listing
        return probed(job, flow)


@contextmanager
def _session(config: SegmentConfig, steps: Steps, events: Events) -> Iterator[tuple[Job, Flow]]:
    """Check a job, connect to Ray, and plan what the job gets of it. Logs what goes wrong."""
    places = {"input.uri": config.input.uri, "input.root": config.input.root, "output.uri": config.output.uri}
    try:
        with using(config.storage.s3), confine(config.storage.allow, places):
            job = check(config)
            with connected(config.compute):
                route_logging(events)
                flow = _flow_of(job, steps)
                set_data_context(flow.resources)
                try:
                    yield job, flow
                except RayError as error:
                    raise run_error(error) from None
    except (UsageError, RunError, TransientError) as error:
        events.failed(error)  # stderr says it too, but a json log must say it
        raise


def _decided(job: Job, flow: Flow, events: Events) -> Decision:
    """Decide what there is to do, and say the plan."""
    decision = decide(job, flow.resources.device)
    for line in plan_lines(job, flow.resources, decision):
        events.say(line, "plan")
    return decision


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
        info = retry_before_run(lambda: read_run_json(run))  # the rest is read once INPUT is listed
    listing = list_input(config.input.uri, root=config.input.root)
    if info and not config.output.overwrite:
        check_same_input(config, info)  # and again with all else, once Ray is there
    return Job(config, run, source, checkpoint, labeling, listing, run_id_of(info))


def _check_place(run: RunDirectory, uri: str) -> None:
    if "://" not in run.uri and run.store.stat(run.uri) is not None:
        raise UsageError("is a file", field="output.uri", value=Plain(uri), hint="give a directory")
    foreign = run.foreign_files()
    if foreign:
        problem = "is not ours, and readers would take it for rows"
        raise UsageError(problem, field="output.uri", value=Plain(foreign[0]), hint="give another OUTPUT")


def run(
    job: Job, device: str, stream: Stream, *, events: Events | None = None, report: Report[RunTotals] = unheard
) -> Outcome[RunTotals]:
    """Run the job in this process, as ``segment`` does on Ray: ``stream`` labels and commits the units that it gets."""
    decision = decide(job, device)

    def engine(attempt: Attempt, units: Units) -> Started:
        base = begin(attempt.run, attempt.work)
        return Started(stream(units), lambda: base, None, Slots(device, fetch_threads=job.config.input.fetch_threads))

    return _attempt(job, decision, device, events or Events(job.config.run.log), report, engine, map)


def _attempt(
    job: Job,
    decision: Decision,
    device: str,
    events: Events,
    report: Report[RunTotals],
    engine: Engine,
    each: Each,
) -> Outcome[RunTotals]:
    with held(job, decision, device, events, report) as attempt:
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
