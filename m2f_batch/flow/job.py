"""The segment job from config to exit code: check everything, say the plan, touch OUTPUT, stream, verify."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from m2f_batch.checkpoint import check_license, read_checkpoint
from m2f_batch.config import OutputConfig, SegmentConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.actor import ActorSettings, check_model
from m2f_batch.flow.cluster import Resources, connected, may_grow, plan_resources, present, run_error, set_data_context
from m2f_batch.flow.pipeline import Flow, build
from m2f_batch.flow.progress import Progress
from m2f_batch.flow.run_info import Job, first_info, info_now, now
from m2f_batch.storage.listing import check_output, list_input
from m2f_batch.storage.model_source import find_model, local_directory
from m2f_batch.storage.run import RunDirectory, Tally, Unit, open_run, units_of
from m2f_batch.verify import verify
from m2f_batch.vision.labeling import settle

DEFAULT_BATCH_SIZE = 8
EARLY_STOP_IMAGES = 200  # so many rows before a hopeless run may be stopped
OK, TOO_MANY_ERRORS = 0, 3

# units in, what was committed of each out (the fields of ``stages.DONE_SCHEMA``)
Stream = Callable[[Iterable[Unit]], Generator[dict[str, Any], None, None]]


def segment(config: SegmentConfig) -> int:
    """Segment every image of INPUT into one row in OUTPUT; returns the exit code.

    Raises UsageError before anything is written, RunError when the run cannot go on (what is committed stays).
    """
    job = check(config)
    with connected(config.compute):
        resources = plan_resources(config.compute, present(), may_grow=may_grow(config.compute))
        for line in plan_lines(job, resources):
            print(line, flush=True)
        compute = config.compute
        batch_size = compute.batch_size or DEFAULT_BATCH_SIZE
        actor = ActorSettings(job.source, job.labeling, resources.device, compute.threads_per_actor, batch_size)
        try:
            ray.get(ray.remote(check_model).options(num_cpus=resources.cpus_per_task).remote(actor))
            flow = Flow(job.run.uri, actor, resources, config.input.max_pixels, config.input.fetch_threads)
            return run(job, resources.device, partial(_stream, flow))
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
        _check_output_is_free(run, config.output)
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError(f"output.uri: {error}") from None
    listing = list_input(config.input.uri, root=config.input.root)
    return Job(config, run, source, checkpoint, labeling, listing)


def _check_output_is_free(run: RunDirectory, output: OutputConfig) -> None:
    if "://" not in run.uri and run.store.stat(run.uri) is not None:
        raise UsageError(f"output.uri: {output.uri} is a file; give a directory")
    if run.holds_run() and not output.overwrite:
        state = "a finished run" if run.is_finished() else "a run that was not finished"
        raise UsageError(f"output.uri: {output.uri} holds {state}; give another OUTPUT, or --overwrite to delete it")
    foreign = run.foreign_files()
    if foreign:
        raise UsageError(
            f"output.uri: {foreign[0]} is not ours, and readers would take it for rows; give another OUTPUT"
        )


def plan_lines(job: Job, resources: Resources) -> Iterator[str]:
    """The plan, said before anything is spent."""
    listing, labeling, config = job.listing, job.labeling, job.config
    yield (
        f"input   {config.input.uri}: {listing.table.num_rows:,} images"
        f" ({listing.skipped:,} other files skipped, {listing.duplicates:,} duplicates)"
    )
    revision = f" @ {job.source.revision[:12]}" if job.source.revision else ""
    asked = "" if config.model.task else " (inferred from the model)"
    yield f"model   {config.model.uri}{revision}: {labeling.task}{asked}, {len(labeling.categories)} labels"
    yield f"        licence of the weights: {job.checkpoint.license}"
    yield f"        canvas: {labeling.preprocess.describe()}; {labeling.precision}"
    if labeling.task == "panoptic":
        stuff = len(labeling.postprocess["stuff_ids"])
        if labeling.stuff_ids_from == "none":
            yield "        warning: nothing says which labels are stuff, so none is merged; set postprocess.stuff_ids"
        else:
            yield f"        {stuff} stuff labels, from the {labeling.stuff_ids_from}"
    low, high = resources.actors
    pool = f"{low}" if low == high else f"{low} to {high}"
    each = (
        f"{resources.gpus_per_actor:g} GPU"
        if resources.device == "cuda"
        else (f"{config.compute.threads_per_actor} threads")
    )
    nodes = present()
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    there = f"{cpus:g} CPUs, {gpus:g} GPUs on {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    yield f"compute {pool} x {resources.device} ({each} each); present: {there}"
    if len(nodes) > 1 and "://" not in job.run.uri:
        yield "        note: OUTPUT is a path, so it must be on storage that all nodes share; INPUT likewise"
    yield f"output  {config.output.uri}: a file per {config.output.images_per_file} images"


def run(job: Job, device: str, stream: Stream) -> int:
    """Touch OUTPUT, send the units through ``stream``, verify, say the end; returns the exit code."""
    fingerprint = job.fingerprint(device)
    info = first_info(job, fingerprint)
    _claim(job, info)
    progress = Progress(
        job.listing.table.num_rows, lambda state: job.run.write_info(info_now(info, state.tally, state.seconds))
    )
    units = units_of(job.listing, fingerprint, job.config.output.images_per_file)
    hopeless = False
    try:
        with progress, closing(stream(units)) as results:
            for unit in results:
                progress.add(unit)
                hopeless = progress.done >= EARLY_STOP_IMAGES and _too_many_errors(job.config, progress.tally)
                if hopeless:
                    break
    finally:
        if progress.done < progress.total:
            # units that were under way have been committed without a word to us: the files know
            progress.tally = job.run.tally()
        job.run.write_info(info_now(info, progress.tally, progress.seconds))
    return _finish(job, info, progress, hopeless)


def _claim(job: Job, info: dict[str, Any]) -> None:
    """Make OUTPUT ours. It was free when the job was checked; that is minutes ago."""
    if job.run.holds_run():
        if not job.config.output.overwrite:
            raise UsageError(f"output.uri: another run has just begun in {job.config.output.uri}; give another OUTPUT")
        job.run.remove()
    if not job.run.claim(info):
        raise UsageError(f"output.uri: another run has just begun in {job.config.output.uri}; give another OUTPUT")
    job.run.write_manifest(job.listing.table)


def _stream(flow: Flow, units: Iterable[Unit]) -> Generator[dict[str, Any], None, None]:
    """What became of each unit, as Ray Data commits them."""
    set_data_context()
    for batch in build(units, flow).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _too_many_errors(config: SegmentConfig, tally: Tally) -> bool:
    return tally.error > config.input.max_error_fraction * (tally.ok + tally.error)


def _finish(job: Job, info: dict[str, Any], progress: Progress, hopeless: bool) -> int:
    done = info_now(info, progress.tally, progress.seconds)
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
    for line in _closing_lines(job, done):
        print(line, flush=True)
    return TOO_MANY_ERRORS if _too_many_errors(job.config, progress.tally) else OK


def _closing_lines(job: Job, done: dict[str, Any]) -> Iterator[str]:
    counts = done["images"]
    remaining = f" + {counts['remaining']:,} remaining" if counts["remaining"] else ""
    yield (
        f"done    {counts['listed']:,} in = {counts['ok']:,} ok + {counts['error']:,} error{remaining};"
        f" {done['segments']:,} segments in {done['seconds']:.0f} s ({done['images_per_second']:.1f} images/s)"
    )
    for reason, count in done["errors"].items():
        yield f"        {count:,} x {reason}"
    yield f"        {job.run.path('annotations')}/*.parquet"
    limit = job.config.input.max_error_fraction
    if counts["error"] > limit * (counts["ok"] + counts["error"]):
        early = "; stopped early" if remaining else ""
        yield f"        more than input.max_error_fraction ({limit:g}) of the images failed{early}"
