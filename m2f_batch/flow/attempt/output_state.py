"""Reads the state of OUTPUT and decides what a command does: start, resume, update, or nothing.

``runs/plan`` says which images are left, and ``train/output/output_state`` decides for trainings.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.flow.attempt.run_info import Job, first_info, next_info
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.index import read_index
from m2f_batch.runs.plan import Change, Plan, default_images_per_file, new_plan, next_plan
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.store import Entry, NotFound, ObjectError, StoreUnavailable, Unreachable
from m2f_batch.storage.uris import normalize
from m2f_batch.vision.label_settings import fingerprint_of

_WAY_OUT = "give another OUTPUT, or --overwrite to delete it"
LATER = "the same command may succeed later"
# config keys that facts of the fingerprint come from
KEYS = {
    "model": "model.uri (its weights or processor)",
    "task": "model.task",
    "precision": "model.precision",
    "compile": "model.compile",
    "cpu_threads": "compute.threads_per_actor",
    "decode_policy": "input.max_pixels, or the decode policy",
    "semantics": "the version of the semantics (3: preprocess.size paper rounds as detectron2; the same edges "
    "in numbers go on with 2)",
    "as_published": "whether published weights run as their authors run them (by model.uri)",
}


@dataclass(frozen=True)
class OutputState:
    """The state of OUTPUT.

    info: run.json, None without a run, empty where nobody can read it.
    plan: the plan of the run, None where there is none.
    plan_version: the version of the file that holds the plan.
    there: the committed files by name.
    dirty: the files of which rows must go before anything is labeled.
    is_finished: whether ``_SUCCESS`` is there.
    """

    info: JsonObject | None
    plan: Plan | None
    plan_version: str | None
    there: Mapping[str, Entry]
    dirty: tuple[str, ...]
    is_finished: bool

    @property
    def run_id(self) -> str | None:
        """The id of the run that is there."""
        return run_id_of(self.info)

    def is_same(self, before: "OutputState") -> bool:
        """Return whether nothing has changed since ``before``, which this state was read with."""
        return self.plan is before.plan and replace(self, plan=None) == replace(before, plan=None)


@dataclass(frozen=True)
class Work:
    """The work of a command.

    change: the plan, and how it differs from the one that is there.
    info: run.json as it will be written.
    over: whether the run that is there is deleted first.
    is_new: whether a new run begins.
    """

    change: Change
    info: JsonObject
    over: bool = False
    is_new: bool = False

    @property
    def plan(self) -> Plan:
        """The plan to work by."""
        return self.change.plan


@dataclass(frozen=True)
class Decision:
    """The state of OUTPUT, and what a command does with it."""

    state: OutputState
    work: Work

    @property
    def is_nothing_to_do(self) -> bool:
        """True where the run is finished, and INPUT lists what it listed."""
        state, work = self.state, self.work
        is_same = state.plan is not None and work.plan is state.plan and not work.change.dirty
        return state.is_finished and is_same and set(work.plan.names()) == state.there.keys()


def decide(job: Job, device: str) -> Decision:
    """Read the state of OUTPUT before the lease and decide what to do, and write nothing.

    Raises UsageError where OUTPUT cannot be read, or holds what this command may not resume or update.
    """
    with refused():
        state = retry_before_run(lambda: read_output_state(job.run))
    return Decision(state, work_of(job, state, device))


def decide_again(job: Job, device: str, before: Decision) -> Decision:
    """Read the state of OUTPUT under the lease, and keep the decision of ``before`` where nothing has changed since.

    Raises RunError where OUTPUT cannot be read, because the lease was written, and UsageError as ``decide`` does.
    """
    try:
        state = retry_before_run(lambda: read_output_state(job.run, before.state))
    except RunError as error:
        raise RunError.about("output.uri", error, hint=LATER if isinstance(error, Unreachable) else "") from None
    return before if state.is_same(before.state) else Decision(state, work_of(job, state, device))


@contextmanager
def refused() -> Iterator[None]:
    """Turn what storage raises about OUTPUT before anything is written into UsageError.

    A server that does not answer is a RunError.
    """
    try:
        yield
    except Unreachable as error:
        raise RunError.about("output.uri", error, hint=LATER) from None
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError.about("output.uri", error) from None


def read_output_state(run: RunDirectory, before: OutputState | None = None) -> OutputState:
    """Read what OUTPUT holds now, and write nothing.

    The plan of ``before`` is taken where neither run.json nor the version of the plan's file has changed, because
    reading it again costs seconds and memory with millions of images. The version alone may be a time of whole seconds.
    """
    info, plan, version, dirty = read_run_json(run), None, None, []
    if info:
        try:
            version = run.plan_version()
            is_known = before is not None and (before.info, before.plan_version) == (info, version)
            plan = before.plan if before is not None and before.plan is not None and is_known else run.read_plan()
            dirty = run.read_dirty()  # of any plan: one that was not written may have been told of an older one's files
        except (StoreUnavailable, ObjectError):
            raise  # says nothing about the run
        except RunError:
            info, plan = {}, None
    return OutputState(info, plan, version, run.committed(), tuple(dirty), run.is_finished())


def run_id_of(info: JsonObject | None) -> str | None:
    """Return the id of a run by its run.json: None without a run, empty where nobody can read it."""
    return None if info is None else str(info.get("run_id", ""))


def read_run_json(run: RunDirectory) -> JsonObject | None:
    """Read run.json: None where there is none, empty where it is not that of a run. Raises what storage raises."""
    try:
        return run.read_info()
    except NotFound:
        return None
    except (StoreUnavailable, ObjectError):
        raise
    except RunError:
        return {}


def check_output_state(job: Job, state: OutputState, device: str) -> None:
    """Raise UsageError where OUTPUT holds what this command may not go on with."""
    output, info = Plain(job.config.output.uri), state.info
    if info is None:
        if state.there:
            example = next(iter(state.there.values())).uri
            problem = f"holds annotations without a run.json, e.g. {example}"
            raise UsageError(problem, field="output.uri", value=output, hint="give another OUTPUT")
        return
    if _is_overwritten(job, state, device):
        return
    if state.plan is None:
        problem = "holds a run that cannot be gone on with"
        raise UsageError(problem, field="output.uri", value=output, hint=_WAY_OUT)
    check_same_input(job.config, info)
    different = differences(info.get("fingerprint_of"), job.facts(device))
    if different:
        ours = fingerprint_of(job.facts(device))
        problem = (
            f"holds a run with the fingerprint {info['fingerprint'][:12]}, and this command's is {ours[:12]}: "
            f"{'; '.join(different)}"
        )
        raise UsageError(problem, field="output.uri", value=output, hint=f"give the same settings, {_WAY_OUT}")


def check_same_input(config: SegmentConfig, info: JsonObject) -> None:
    """Raise UsageError where OUTPUT holds a run over another INPUT."""
    held = info["config"]["input"]["uri"]
    if held != normalize(config.input.uri):
        problem = f"holds a run over {held}, and input.uri is {config.input.uri}"
        raise UsageError(problem, field="output.uri", value=Plain(config.output.uri), hint=_WAY_OUT)


def _is_overwritten(job: Job, state: OutputState, device: str) -> bool:
    """Return whether the run that is there is deleted. An unfinished one of the same settings goes on."""
    info = state.info
    if info is None or not job.config.output.overwrite:
        return False
    goes_on = (
        state.plan is not None
        and not state.is_finished
        and info["config"]["input"]["uri"] == job.input_uri
        and not differences(info.get("fingerprint_of"), job.facts(device))
    )
    return not goes_on


def work_of(job: Job, state: OutputState, device: str) -> Work:
    """Find what there is to do. Raises UsageError as ``check_output_state`` does, and when too many images are gone."""
    check_output_state(job, state, device)
    listing, config = job.listing.table, job.config
    per_file = config.output.images_per_file or default_images_per_file(listing.num_rows)
    per_unit = min(config.run.images_per_unit, per_file)
    over = _is_overwritten(job, state, device)
    if state.info is None or over or state.plan is None:
        facts = job.facts(device)
        plan = new_plan(listing, fingerprint_of(facts), per_file, per_unit)
        return Work(Change(plan, new=listing.num_rows), first_info(job, facts, plan), over, is_new=True)
    retry = _to_retry(job, state)
    fingerprint = state.info["fingerprint"]
    change = next_plan(state.plan, listing, state.there, retry, fingerprint, per_file, per_unit)
    listed = state.plan.table.num_rows
    if change.vanished > config.input.max_removed_fraction * listed:
        raise UsageError(
            f"{change.vanished:,} of the {listed:,} images that {config.output.uri} holds are not in "
            f"{config.input.uri} any more, more than input.max_removed_fraction "
            f"({config.input.max_removed_fraction:g}) allows; their rows would go",
            field="input.uri",
            hint="raise it if that is meant",
        )
    dirty = tuple(dict.fromkeys([*state.dirty, *change.dirty]))
    change = replace(change, dirty=dirty)
    return Work(change, next_info(job, state.info, change.plan))


def differences(held: JsonObject | None, ours: JsonObject) -> list[str]:
    """Say what differs between the facts of two fingerprints. Fewer GPUs, or none, may finish a run."""
    if held is None:
        return ["it does not say what its labels were decided by"]
    other_device = held.get("cpu_threads") is None or ours.get("cpu_threads") is None
    mine, theirs = _flat(ours), _flat(held)
    names = [name for name in {**theirs, **mine} if not (name == "cpu_threads" and other_device)]
    return [
        f"{KEYS.get(name, name)} is {theirs.get(name)} there and {mine.get(name)} here"
        for name in names
        if theirs.get(name) != mine.get(name)
    ]


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            text = json.dumps(value)
            flat[prefix + name] = text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"
    return flat


def _to_retry(job: Job, state: OutputState) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Find the image ids of the rows that run.retry asks to be labeled again."""
    wanted = job.config.run.retry
    ids: list[int] = []
    if wanted == "tiff" and state.plan is not None:
        ids = state.plan.table.filter(named_tiff(state.plan.table))["image_id"].to_pylist()
    elif wanted is not None:
        reason, index = wanted.partition("=")[2], read_index(job.run)
        for name, entry in state.there.items():
            known = index.get(name)
            if known is not None and known.version == entry.version and not known.error:
                continue
            rows = job.run.read_annotations(entry.uri, ["image_id", "error"]).to_pylist()
            ids += [row["image_id"] for row in rows if row["error"] and _is_meant(row["error"], reason)]
    return np.array(ids, dtype=np.int64)


def named_tiff(listing: pa.Table) -> pa.ChunkedArray:
    """Mark the images of a listing whose names are those of TIFFs."""
    return pc.match_substring_regex(listing["uri"], r"(?i)\.tiff?$")


def _is_meant(error: Mapping[str, str], reason: str) -> bool:
    return not reason or reason in (error["stage"], error["type"], f"{error['stage']}/{error['type']}")
