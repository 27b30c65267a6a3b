"""The segment job from config to exit code: check everything, say the plan, touch OUTPUT, stream, verify."""

import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from m2f_batch.checkpoint import Checkpoint, check_license, read_checkpoint
from m2f_batch.config import SegmentConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.actor import ActorSettings, check_model
from m2f_batch.flow.cluster import Resources, connected, may_grow, plan_resources, run_error, set_data_context
from m2f_batch.flow.pipeline import Flow, build
from m2f_batch.flow.progress import Progress
from m2f_batch.storage.listing import Listing, check_output, list_input
from m2f_batch.storage.model_source import ModelSource, find_model, local_directory
from m2f_batch.storage.run import RunDirectory, Unit, open_run, units_of
from m2f_batch.storage.store import StoreUnavailable
from m2f_batch.storage.uris import normalise
from m2f_batch.verify import verify
from m2f_batch.vision.labeling import Labeling, installed_versions, settle

DEFAULT_BATCH_SIZE = 8
EARLY_STOP_IMAGES = 200  # so many rows before a hopeless run may be stopped
OK, TOO_MANY_ERRORS = 0, 3

# units in, what was committed of each out (the fields of ``stages.DONE_SCHEMA``)
Stream = Callable[[Iterable[Unit]], Generator[dict[str, Any], None, None]]


@dataclass(frozen=True)
class Job:
    """A checked job: nothing was written so far."""

    config: SegmentConfig
    run: RunDirectory
    source: ModelSource
    checkpoint: Checkpoint
    labeling: Labeling
    listing: Listing

    def fingerprint(self, device: str) -> str:
        """Hash of what decides a label of this job on a device."""
        threads = self.config.compute.threads_per_actor if device == "cpu" else None
        return self.labeling.fingerprint(self.checkpoint.fingerprint, threads)


def segment(config: SegmentConfig) -> int:
    """Segment every image of INPUT into one row in OUTPUT; returns the exit code.

    Raises UsageError before anything is written, RunError when the run cannot go on (what is committed stays).
    """
    job = check(config)
    with connected(config.compute):
        resources = plan_resources(config.compute, ray.cluster_resources(), may_grow=may_grow(config.compute))
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
        is_taken = run.holds_run()
    except StoreUnavailable as error:
        raise UsageError(f"output.uri: {error}") from None
    if is_taken and not config.output.overwrite:
        state = "a finished run" if run.is_finished() else "a run that was not finished"
        raise UsageError(
            f"output.uri: {config.output.uri} holds {state}; give another OUTPUT, or --overwrite to delete it"
        )
    listing = list_input(config.input.uri, root=config.input.root)
    return Job(config, run, source, checkpoint, labeling, listing)


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
    total = ray.cluster_resources()
    present = f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs on {len(ray.nodes())} nodes"
    yield f"compute {pool} x {resources.device} ({each} each); present: {present}"
    yield f"output  {config.output.uri}: a file per {config.output.images_per_file} images"


def run(job: Job, device: str, stream: Stream) -> int:
    """Touch OUTPUT, send the units through ``stream``, verify, say the end; returns the exit code."""
    fingerprint = job.fingerprint(device)
    info = _first_info(job, fingerprint)
    if job.run.holds_run():
        job.run.remove()
    job.run.write_info(info)
    job.run.write_manifest(job.listing.table)
    progress = Progress(job.listing.table.num_rows, lambda state: job.run.write_info(_info_now(info, state)))
    units = units_of(job.listing, fingerprint, job.config.output.images_per_file)
    try:
        with progress, closing(stream(units)) as results:
            for unit in results:
                progress.add(unit)
                if progress.done >= EARLY_STOP_IMAGES and _too_many_errors(job.config, progress):
                    break
    finally:
        job.run.write_info(_info_now(info, progress))
    return _finish(job, info, progress)


def _stream(flow: Flow, units: Iterable[Unit]) -> Generator[dict[str, Any], None, None]:
    """What became of each unit, as Ray Data commits them."""
    set_data_context()
    for batch in build(units, flow).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _too_many_errors(config: SegmentConfig, progress: Progress) -> bool:
    return progress.error > config.input.max_error_fraction * progress.done


def _finish(job: Job, info: dict[str, Any], progress: Progress) -> int:
    done = _info_now(info, progress)
    if progress.transient:
        raise RunError(
            f"{done['images']['remaining']:,} images remain: {progress.transient[0]} "
            f"({len(progress.transient)} units of work failed in passing); try again later"
        )
    stopped_early = done["images"]["remaining"] > 0
    if not stopped_early:
        done["finished_at"] = _now()
        job.run.write_info(done)
        problems = verify(job.run, job.labeling.task)
        if problems:
            raise RunError("the run does not verify: " + "; ".join(problems[:3]))
        job.run.mark_success()
    counts = done["images"]
    remaining = f" + {counts['remaining']:,} remaining" if counts["remaining"] else ""
    print(
        f"done    {counts['listed']:,} in = {counts['ok']:,} ok + {counts['error']:,} error{remaining};"
        f" {done['segments']:,} segments in {done['seconds']:.0f} s ({done['images_per_second']:.1f} images/s)"
    )
    for reason, count in done["errors"].items():
        print(f"        {count:,} x {reason}")
    print(f"        {job.run.path('annotations')}/*.parquet", flush=True)
    if not _too_many_errors(job.config, progress):
        return OK
    print(
        f"        more than input.max_error_fraction ({job.config.input.max_error_fraction:g}) of the images failed"
        + ("; stopped early" if stopped_early else ""),
        flush=True,
    )
    return TOO_MANY_ERRORS


def _first_info(job: Job, fingerprint: str) -> dict[str, Any]:
    """run.json before the first image."""
    labeling, listing = job.labeling, job.listing
    return {
        "run_id": uuid.uuid4().hex,
        "task": labeling.task,
        "model": {
            "uri": job.source.uri,
            "revision": job.source.revision,
            "fingerprint": job.checkpoint.fingerprint,
            "license": job.checkpoint.license,
        },
        "config": _config_as_run(job.config),
        "postprocess": {k: sorted(v) if isinstance(v, frozenset) else v for k, v in labeling.postprocess.items()},
        "preprocess": asdict(labeling.preprocess) | {"size": labeling.preprocess.describe()},
        "fingerprint": fingerprint,
        "versions": installed_versions(),
        "categories": [asdict(category) for category in labeling.categories],
        "stuff_ids_from": labeling.stuff_ids_from,
        "images": {
            "listed": listing.table.num_rows,
            "ok": 0,
            "error": 0,
            "remaining": listing.table.num_rows,
            "skipped": listing.skipped,
            "duplicates": listing.duplicates,
        },
        "segments": 0,
        "errors": {},
        "started_at": _now(),
        "finished_at": None,
        "seconds": 0.0,
        "images_per_second": 0.0,
        "attempts": 1,
    }


def _config_as_run(config: SegmentConfig) -> dict[str, Any]:
    """The config with its places spelled out, so that they mean the same in another working directory."""
    tree = config.model_dump(mode="json")
    for section, key in (("input", "uri"), ("input", "root"), ("output", "uri")):
        if tree[section][key] is not None:
            tree[section][key] = normalise(tree[section][key])
    return tree


def _info_now(info: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """run.json with the counts of this moment."""
    counts = {"ok": progress.ok, "error": progress.error, "remaining": progress.total - progress.done}
    seconds = round(progress.seconds, 3)
    return info | {
        "images": info["images"] | counts,
        "segments": progress.segments,
        "errors": dict(Counter(progress.reasons).most_common()),
        "seconds": seconds,
        "images_per_second": round(progress.done / seconds, 3) if seconds else 0.0,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
