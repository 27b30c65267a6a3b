"""Says the plan of a run before anything is spent."""

from collections.abc import Iterator, Mapping

import pyarrow.compute as pc

from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.flow.attempt.output_state import Decision, named_tiff
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.models.published.licenses import terms_of
from m2f_batch.ray_session.nodes import present
from m2f_batch.ray_session.resources import Resources
from m2f_batch.runs.plan import default_images_per_file
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.decode.image import DECODER
from m2f_batch.vision.label_settings import published_windows

SHOWN_KEYS = frozenset({"input.uri", "model.uri", "model.task", "output.uri", "output.overwrite", "run.deadline"})


def plan_lines(job: Job, resources: Resources, decision: Decision) -> Iterator[str]:
    """Yield the lines of the plan."""
    listing, config, work, is_done = job.listing, job.config, decision.work, decision.is_nothing_to_do
    yield (
        f"input   {config.input.uri}: {listing.table.num_rows:,} images"
        f" ({listing.skipped:,} other files skipped, {listing.duplicates:,} duplicates)"
    )
    for note in listing.notes:
        yield f"        note: {note}"
    yield from _model_lines(job)
    yield from _compute_lines(job, resources)
    if given := settings_given(config):
        yield f"config  {', '.join(given)}"
    per_file = config.output.images_per_file or default_images_per_file(listing.table.num_rows)
    yield f"output  {config.output.uri}: files of up to {per_file:,} images"
    if work.over:
        yield "        the run that is there will be deleted"
    elif is_done:
        yield "        is finished, and INPUT has not changed: there is nothing to do"
    elif not work.is_new:
        yield f"        goes on with the run that is there: {work.change.said()}; attempt {work.info['attempts']}"
    if not is_done and work.info["deadline_at"]:
        yield f"        should be done at {work.info['deadline_at']} (run.deadline)"
    if work.info["decoder"] < DECODER and (tiffs := pc.sum(named_tiff(listing.table)).as_py()):
        yield (
            "        note: an older release, which read some layouts of TIFF wrong (16-bit planes, big-endian floats),"
            f" may have labeled the {tiffs:,} that are here; --retry tiff labels them again"
        )


def settings_given(config: SegmentConfig) -> list[str]:
    """Return the keys that are not at their defaults with their values, without those that the plan shows anyway.

    >>> from m2f_batch.config.loading import load_config
    >>> flags = {"input.uri": "a", "model.uri": "m", "output.uri": "b", "compute.actors": [1, 8]}
    >>> settings_given(load_config(SegmentConfig, flags=flags, overrides=["preprocess.size=paper"]))
    ['preprocess.size=paper', 'compute.actors=[1, 8]']
    """
    return [line for line in _set_below(config.model_dump(mode="json", exclude_defaults=True), "") if line]


def _set_below(tree: Mapping[str, object], prefix: str) -> Iterator[str]:
    known = {key for key, _ in fields_of(SegmentConfig)}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in known:
            yield "" if key in SHOWN_KEYS else f"{key}={value}"
        elif isinstance(value, Mapping):
            yield from _set_below(value, f"{key}.")


def _model_lines(job: Job) -> Iterator[str]:
    labeling, config = job.labeling, job.config
    revision = f" @ {job.source.revision[:12]}" if job.source.revision else ""
    asked = "" if config.model.task else " (inferred from the model)"
    yield f"model   {config.model.uri}{revision}: {labeling.task}{asked}, {len(labeling.categories)} labels"
    yield f"        license of the weights: {job.checkpoint.license}"
    for terms in terms_of(job.checkpoint.license):
        yield f"        note: {terms}"
    yield f"        canvas: {labeling.preprocess.describe()}; {labeling.precision}"
    yield from _window_lines(job)
    if labeling.task == "panoptic":
        stuff = len(labeling.postprocess["stuff_ids"])
        if labeling.stuff_ids_from == "none":
            yield "        warning: nothing says which labels are stuff, so none is merged; set postprocess.stuff_ids"
        else:
            yield f"        {stuff} stuff labels, from the {labeling.stuff_ids_from}"
        usual_postprocess = job.checkpoint.family.tasks.settings(job.checkpoint.config, "panoptic", None, "panoptic")
        threshold, usual = labeling.postprocess["score_threshold"], usual_postprocess["score_threshold"]
        if config.postprocess.score_threshold is None and threshold != usual:
            yield f"        score threshold {threshold:g}, the paper's for this label set (elsewhere {usual:g})"
    for note in labeling.notes:
        yield f"        warning: {note}"
    if doubt := labeling.doubt():
        yield f"        warning: {doubt}; the key is preprocess.normalize"


def _window_lines(job: Job) -> Iterator[str]:
    """Say which windows the model sees, or that its published test has some that this run has not."""
    cut, checkpoint, size = job.labeling.cut, job.checkpoint, job.config.preprocess.size
    if isinstance(cut, Windows):
        whose = "the family's published test" if job.config.preprocess.window is None else "preprocess.window"
        yield f"        {cut.describe()} ({whose}); what the model gives is averaged where they overlap"
    elif checkpoint.family.pixels.windows is not None and job.labeling.task == "semantic":
        published = published_windows(checkpoint, checkpoint.label_set, "semantic")
        if published is None:
            yield f"        the whole image at once{_published_whole(job)} (windows: preprocess.window)"
        elif size != "paper":
            yield (
                f"        the whole image at once; the published test has windows of {published.size} with stride "
                f"{published.stride}: preprocess.size=paper, or preprocess.window"
            )


def _published_whole(job: Job) -> str:
    """Say that the published test of such a model sees the whole image too, if there is one."""
    checkpoint, labels = job.checkpoint, job.checkpoint.label_set
    rules, plan = checkpoint.family.pixels, job.labeling.preprocess
    paper = labels and rules.paper(checkpoint.named_config, plan, labels, "semantic")
    return f", as in the published test of such a model on {labels.name}" if labels and paper else ""


def _compute_lines(job: Job, resources: Resources) -> Iterator[str]:
    config = job.config
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
    if not resources.fits(nodes):
        cpus, gpu = resources.cpus_per_actor, resources.gpus_per_actor
        takes = f"{cpus:g} CPU{'s' if cpus > 1 else ''}" + (f" and {gpu:g} GPU{'s' if gpu > 1 else ''}" if gpu else "")
        yield (
            f"        waits for nodes: a replica takes {takes} on one node, and what fetches and decodes for it"
            f" {resources.cpus_per_task:g} CPU more"
        )
    elif resources.starts_nodes and resources.may_starve(nodes):
        yield (
            f"        note: the replicas can take all {cpus:g} CPUs, and then what fetches and decodes for them waits"
            " for a node with a free one; give GPU nodes more CPUs than GPUs, or set a lower compute.actors"
        )
    if resources.device == "cpu" and config.compute.device == "auto" and resources.starts_nodes:
        yield "        note: no GPU is up, so the model runs on CPUs; to wait for one, set compute.device: cuda"
    if len(nodes) > 1 and "://" not in job.run.uri:
        yield "        note: OUTPUT is a path, so it must be on storage that all nodes share; INPUT likewise"
