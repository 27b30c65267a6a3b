"""The segment job from config to exit code: check everything, say the plan, touch OUTPUT, stream, verify."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayError

from m2f_batch.checkpoint import check_license, read_checkpoint
from m2f_batch.config import OutputConfig, SegmentConfig
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.flow.actor import ActorSettings
from m2f_batch.flow.busy import Places
from m2f_batch.flow.claim import claim, is_ours, run_id_of
from m2f_batch.flow.cluster import connected, may_grow, plan_resources, present, run_error, set_data_context
from m2f_batch.flow.dry_run import dry_run
from m2f_batch.flow.gate import gate_for
from m2f_batch.flow.pipeline import Flow, build
from m2f_batch.flow.plan import plan_lines
from m2f_batch.flow.progress import Progress
from m2f_batch.flow.run_info import Job, first_info, info_now, now
from m2f_batch.flow.stopping import noticed_stops
from m2f_batch.storage.listing import check_output, list_input
from m2f_batch.storage.model_source import find_model, local_directory
from m2f_batch.storage.run import RunDirectory, Tally, Unit, open_run, units_of
from m2f_batch.verify import verify
from m2f_batch.vision.labeling import settle

EARLY_STOP_IMAGES = 200  # so many rows before a hopeless run may be stopped
OK, TOO_MANY_ERRORS = 0, 3

# units in, what was committed of each out (the fields of ``stages.DONE_SCHEMA``)
Stream = Callable[[Iterable[Unit]], Generator[dict[str, Any], None, None]]


def segment(config: SegmentConfig, *, is_dry_run: bool = False) -> int:
    """Segment every image of INPUT into one row in OUTPUT; returns the exit code.

    A dry run labels a few images, says what the whole would take, and writes nothing. Raises UsageError before anything
    is written, RunError when the run cannot go on (what is committed stays).
    """
    job = check(config)
    with connected(config.compute):
        resources = plan_resources(config.compute, present(), may_grow=may_grow(config.compute))
        for line in plan_lines(job, resources):
            print(line, flush=True)
        compute = config.compute
        actor = ActorSettings(job.source, job.labeling, resources.device, compute.threads_per_actor, compute.batch_size)
        flow = Flow(job.run.uri, actor, resources, config.input.max_pixels, config.input.fetch_threads)
        set_data_context()
        try:
            return dry_run(job, flow) if is_dry_run else _run_on_ray(job, flow)
        except RayError as error:
            raise run_error(error) from None


def check(config: SegmentConfig) -> Job:
    """Everything that can be wrong with a job and seen before it starts; raises UsageError."""
    source = find_model(config.model.uri, config.model.revision)
    checkpoint = read_checkpoint(local_directory(source), config.model.uri)
    check_license(checkpoint, config.model.allowed_licenses)
    labeling = settle(checkpoint, config.model, config.preprocess, config.postprocess)
    check_output(config.input.uri, config.output.uri)
    run = open_run(config.output.uri)
    try:
        over = _check_output_is_free(run, config.output)
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError(f"output.uri: {error}") from None
    listing = list_input(config.input.uri, root=config.input.root)
    return Job(config, run, source, checkpoint, labeling, listing, over)


def _check_output_is_free(run: RunDirectory, output: OutputConfig) -> str | None:
    """The run_id of the run that OUTPUT holds and that may be overwritten; None when it holds none."""
    if "://" not in run.uri and run.store.stat(run.uri) is not None:
        raise UsageError(f"output.uri: {output.uri} is a file; give a directory")
    held = run_id_of(run)
    if held is not None and not output.overwrite:
        state = "a finished run" if run.is_finished() else "a run that was not finished"
        raise UsageError(f"output.uri: {output.uri} holds {state}; give another OUTPUT, or --overwrite to delete it")
    foreign = run.foreign_files()
    if foreign:
        raise UsageError(
            f"output.uri: {foreign[0]} is not ours, and readers would take it for rows; give another OUTPUT"
        )
    return held


def run(job: Job, device: str, stream: Stream) -> int:
    """Claim OUTPUT, send the units through ``stream``, verify, say the end; returns the exit code."""
    info = first_info(job, job.fingerprint(device))
    claim(job.run, info, job.listing.table, over=job.over)
    return _follow(job, info, stream, Places(device, fetch_threads=job.config.input.fetch_threads), lambda: True)


def _run_on_ray(job: Job, flow: Flow) -> int:
    """The same, with the claim on the cluster, where the first replica to have its model asks for it."""
    info = first_info(job, job.fingerprint(flow.resources.device))
    gate = gate_for(job.run.uri, info, job.listing.table, job.over)
    places = Places(flow.resources.device, flow.resources.preparing(present()), flow.fetch_threads)
    return _follow(job, info, partial(_stream, flow, gate), places, partial(is_ours, job.run, info))


def _follow(job: Job, info: dict[str, Any], stream: Stream, places: Places, is_claimed: Callable[[], bool]) -> int:
    """Count what ``stream`` makes of the units, and keep run.json fresh as soon as OUTPUT is ours."""

    def refresh(state: Progress) -> None:
        if is_claimed():
            job.run.write_info(info_now(info, state))

    progress = Progress(job.listing.table.num_rows, places, refresh)
    units = units_of(job.listing, info["fingerprint"], job.config.output.images_per_file)
    hopeless = False
    with noticed_stops() as check_stop:
        try:
            with progress, closing(stream(units)) as results:
                for unit in results:
                    check_stop()
                    progress.add(unit)
                    hopeless = progress.done >= EARLY_STOP_IMAGES and _too_many_errors(job.config, progress.tally)
                    if hopeless:
                        break
        finally:
            # what ended the stream says more than what fails here; if nothing did, what follows fails the same way
            with suppress(TransientError, RunError):
                if is_claimed():
                    if progress.done < progress.total:
                        # units that were under way have been committed without a word to us: the files know
                        progress.tally = job.run.tally()
                    job.run.write_info(info_now(info, progress))
        check_stop()
    if not is_claimed():
        raise RunError(f"output.uri: another run has taken {job.run.uri} from this one (--overwrite?)")
    return _finish(job, info, progress, hopeless)


def _stream(flow: Flow, gate: ActorHandle, units: Iterable[Unit]) -> Generator[dict[str, Any], None, None]:
    """What became of each unit, as Ray Data commits them."""
    for batch in build(units, flow, gate).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _too_many_errors(config: SegmentConfig, tally: Tally) -> bool:
    return tally.error > config.input.max_error_fraction * (tally.ok + tally.error)


def _finish(job: Job, info: dict[str, Any], progress: Progress, hopeless: bool) -> int:
    done = info_now(info, progress)
    remaining = done["images"]["remaining"]
    if progress.transient:
        raise RunError(
            f"{remaining:,} images remain: {progress.transient[0]} "
            f"({len(progress.transient)} units of work failed in passing); try again later"
        )
    if remaining and not hopeless:
        raise RunError(f"{remaining:,} images got no row, which must not happen; please report it")
    if not remaining:
        done["finished_at"] = now()
        job.run.write_info(done)
        problems = verify(job.run, job.labeling.task)
        if problems:
            raise RunError("the run does not verify: " + "; ".join(problems[:3]))
        job.run.mark_success()
    for line in _closing_lines(job, done, progress):
        print(line, flush=True)
    return TOO_MANY_ERRORS if _too_many_errors(job.config, progress.tally) else OK


def _closing_lines(job: Job, done: dict[str, Any], progress: Progress) -> Iterator[str]:
    counts = done["images"]
    remaining = f" + {counts['remaining']:,} remaining" if counts["remaining"] else ""
    yield (
        f"done    {counts['listed']:,} in = {counts['ok']:,} ok + {counts['error']:,} error{remaining};"
        f" {done['segments']:,} segments in {done['seconds']:.0f} s ({done['images_per_second']:.1f} images/s)"
    )
    for reason, count in done["errors"].items():
        yield f"        {count:,} x {reason}"
    for line in progress.busy.lines():
        yield f"        {line}"
    yield f"        {job.run.path('annotations')}/*.parquet"
    limit = job.config.input.max_error_fraction
    if counts["error"] > limit * (counts["ok"] + counts["error"]):
        early = "; stopped early" if remaining else ""
        yield f"        more than input.max_error_fraction ({limit:g}) of the images failed{early}"
