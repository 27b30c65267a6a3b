"""Holds a checked job, and makes the run.json of its run."""

import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property

from m2f_batch.config.deadline import deadline_at
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.inputs.listing import Listing
from m2f_batch.messages.log_values import redacted
from m2f_batch.messages.spoken import now
from m2f_batch.models.checkpoint import Checkpoint
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.source import ModelSource
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.plan import Plan
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.uris import normalize
from m2f_batch.vision.decode.image import DECODER
from m2f_batch.vision.label_settings import Labeling, fingerprint_of, installed_versions


@dataclass(frozen=True)
class Job:
    """A checked job, of which nothing was written so far.

    held: the run_id of the run that OUTPUT held when the job was checked, None without one.
    """

    config: SegmentConfig
    run: RunDirectory
    source: ModelSource
    checkpoint: Checkpoint
    labeling: Labeling
    listing: Listing
    held: str | None

    @cached_property
    def input_uri(self) -> str:
        """The one spelling of INPUT, as run.json has it."""
        return normalize(self.config.input.uri)

    def facts(self, device: str) -> JsonObject:
        """Return the facts that decide a label of this job on a device."""
        threads = self.config.compute.threads_per_actor if device == "cpu" else None
        return self.labeling.facts(self.checkpoint.fingerprint, self.config.input.max_pixels, threads)


def first_info(job: Job, facts: JsonObject, plan: Plan) -> JsonObject:
    """Return run.json of a new run, before the first image."""
    return {
        "run_id": uuid.uuid4().hex,
        **_settings(job),
        "decoder": DECODER,
        "fingerprint": fingerprint_of(facts),
        "fingerprint_of": facts,
        "plan": plan.plan_id,
        **_counts(job),
        "started_at": now(),
        "deadline_at": _deadline(job, None),
        "finished_at": None,
        "seconds": 0.0,
        "images_per_second": 0.0,
        "stages": {},
        "retries": 0,
        "forward": {"fast": 0, "slow": 0, "why": {}},
        "attempts": 1,
    }


def next_info(job: Job, before: JsonObject, plan: Plan) -> JsonObject:
    """Return run.json of a run that goes on: its identity stays, and the facts of this attempt are new."""
    return {
        **before,
        **_settings(job),
        "decoder": DECODER if job.config.run.retry == "tiff" else before.get("decoder", 1),
        "plan": plan.plan_id,
        **_counts(job),
        "deadline_at": _deadline(job, before),
        "finished_at": None,
        "seconds": 0.0,
        "images_per_second": 0.0,
        "stages": {},
        "retries": 0,
        "attempts": int(before.get("attempts", 1)) + 1,
    }


def begun_now(job: Job, info: JsonObject, before: JsonObject | None) -> JsonObject:
    """Return run.json of an attempt with the times of one that begins now, because deciding and waiting take time.

    ``before`` is run.json of the run that goes on, None for a new run.
    """
    started = {"started_at": now()} if before is None else {}
    return {**info, **started, "deadline_at": _deadline(job, before)}


def _deadline(job: Job, before: JsonObject | None) -> str | None:
    """Return when the run should be done. A killed run keeps its moment as long as the key is the same."""
    text = job.config.run.deadline
    if text is None:
        return None
    held = None if before is None or before["finished_at"] else before.get("deadline_at")
    if before is not None and held and before["config"]["run"].get("deadline") == text:
        return str(held)
    return deadline_at(text, datetime.now(UTC)).isoformat(timespec="seconds")


def _settings(job: Job) -> JsonObject:
    labeling = job.labeling
    return {
        "task": labeling.task,
        "model": {
            "uri": job.source.uri,
            "revision": job.source.revision,
            "fingerprint": job.checkpoint.fingerprint,
            "license": job.checkpoint.license,
        },
        "config": _config_as_run(job.config),
        "postprocess": {k: sorted(v) if isinstance(v, frozenset) else v for k, v in labeling.postprocess.items()},
        "preprocess": _preprocess_as_run(labeling.preprocess),
        "versions": installed_versions(),
        "categories": [asdict(category) for category in labeling.categories],
        "stuff_ids_from": labeling.stuff_ids_from,
    }


def _preprocess_as_run(plan: PreprocessPlan) -> JsonObject:
    """Return a plan in words and numbers. Where the edges are rounded as older releases can, it is said as they do."""
    facts = plan.facts() | {"size": plan.describe()}
    if plan.rounding in ("transformers", "detectron2"):
        facts.pop("rounding", None)
        facts["as_detectron2"] = plan.rounding == "detectron2"
    return facts


def _counts(job: Job) -> JsonObject:
    listing = job.listing
    return {
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
        "strangers": 0,
    }


def _config_as_run(config: SegmentConfig) -> JsonObject:
    """Return the config with whole places, because relative ones mean others in another working directory."""
    tree = config.model_dump(mode="json")
    if config.preprocess.window is None:  # a key that older releases do not know is there where it is in use
        del tree["preprocess"]["window"]
    for section, key in (("input", "uri"), ("input", "root"), ("output", "uri")):
        if tree[section][key] is not None:
            tree[section][key] = normalize(tree[section][key])
    tree["compute"] = redacted(tree["compute"])  # an address may hold a password
    return tree


def info_now(info: JsonObject, progress: Progress) -> JsonObject:
    """Return run.json with the counts of this moment. ``seconds`` and ``images_per_second`` are this attempt's."""
    tally, seconds = progress.tally, progress.seconds
    done = tally.ok + tally.error
    counts = {"ok": tally.ok, "error": tally.error, "remaining": info["images"]["listed"] - done}
    return info | {
        "images": info["images"] | counts,
        "segments": tally.segments,
        "errors": dict(tally.reasons.most_common()),
        "strangers": tally.strangers,
        "seconds": round(seconds, 3),
        "images_per_second": round(progress.labeled / seconds, 3) if seconds else 0.0,
        "stages": progress.busy.report(),
        "retries": progress.retries,
        "forward": progress.forwards.report(info.get("forward")),
    }
