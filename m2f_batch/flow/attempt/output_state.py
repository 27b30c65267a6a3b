"""What OUTPUT holds when a command begins, and what is left to do: everything, the rest, what is new, nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.attempt.run_info import Job, first_info, next_info
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.index import read_index
from m2f_batch.runs.lease import newest_token
from m2f_batch.runs.plan import Change, Plan, default_images_per_file, new_plan, next_plan
from m2f_batch.storage.store import Entry, ObjectError, StoreUnavailable
from m2f_batch.storage.uris import normalise
from m2f_batch.vision.label_settings import fingerprint_of

# where a fact of the fingerprint comes from
KEYS = {
    "model": "model.uri (its weights or processor)",
    "task": "model.task",
    "precision": "model.precision",
    "compile": "model.compile",
    "cpu_threads": "compute.threads_per_actor",
    "decode_policy": "input.max_pixels, or the decode policy",
    "semantics": "the version of the semantics (3: preprocess.size paper rounds as detectron2; the same edges "
    "in numbers go on with 2)",
}


@dataclass(frozen=True)
class Standing:
    """What OUTPUT holds: run.json (None: no run; empty: nobody can read it), the plan, committed files, a lease."""

    info: dict[str, Any] | None
    plan: Plan | None
    there: Mapping[str, Entry]
    dirty: tuple[str, ...]
    is_finished: bool
    token: int

    @property
    def run_id(self) -> str | None:
        """Of the run that is there."""
        return None if self.info is None else str(self.info.get("run_id", ""))


@dataclass(frozen=True)
class Work:
    """What a command has to do: ``change`` with its plan, ``info`` for run.json, whether a run is to be deleted."""

    change: Change
    info: dict[str, Any]
    over: bool = False
    is_new: bool = False

    @property
    def plan(self) -> Plan:
        """The plan to work by."""
        return self.change.plan


def look(run: RunDirectory) -> Standing:
    """What OUTPUT holds now. Nothing is written."""
    token, info, plan, dirty = newest_token(run.store, run.lease_folder), None, None, []
    if run.holds_run():
        try:
            info = run.read_info()
            plan = run.read_plan()
            dirty = run.read_dirty()  # of any plan: one that was not written may have been told of an older one's files
        except (StoreUnavailable, ObjectError):
            raise  # says nothing about the run
        except RunError:
            info, plan = {}, None
    return Standing(info, plan, run.committed(), tuple(dirty), run.is_finished(), token)


def check_standing(job: Job, standing: Standing, device: str) -> None:
    """Raises UsageError where OUTPUT holds what this command may not go on with."""
    output, info = job.config.output.uri, standing.info
    if info is None:
        if standing.there:
            example = next(iter(standing.there.values())).uri
            raise UsageError(
                f"output.uri: {output} holds annotations without a run.json, e.g. {example}; give another OUTPUT"
            )
        return
    if _is_overwritten(job, standing, device):
        return
    way_out = "give another OUTPUT, or --overwrite to delete it"
    if standing.plan is None:
        raise UsageError(f"output.uri: {output} holds a run that cannot be gone on with; {way_out}")
    if info["config"]["input"]["uri"] != normalise(job.config.input.uri):
        raise UsageError(
            f"output.uri: {output} holds a run over {info['config']['input']['uri']}, and input.uri is "
            f"{job.config.input.uri}; {way_out}"
        )
    different = differences(info.get("fingerprint_of"), job.facts(device))
    if different:
        ours = fingerprint_of(job.facts(device))
        raise UsageError(
            f"output.uri: {output} holds a run with the fingerprint {info['fingerprint'][:12]}, and this command's is "
            f"{ours[:12]}: {'; '.join(different)}; give the same settings, {way_out}"
        )


def _is_overwritten(job: Job, standing: Standing, device: str) -> bool:
    """Whether the run that is there is to be deleted. One of the same settings that was not finished goes on."""
    info = standing.info
    if info is None or not job.config.output.overwrite:
        return False
    goes_on = (
        standing.plan is not None
        and not standing.is_finished
        and info["config"]["input"]["uri"] == normalise(job.config.input.uri)
        and not differences(info.get("fingerprint_of"), job.facts(device))
    )
    return not goes_on


def work_of(job: Job, standing: Standing, device: str) -> Work:
    """What there is to do. Raises UsageError as ``check_standing`` does, and when too many images have vanished."""
    check_standing(job, standing, device)
    listing, config = job.listing.table, job.config
    per_file = config.output.images_per_file or default_images_per_file(listing.num_rows)
    per_unit = min(config.run.images_per_unit, per_file)
    over = _is_overwritten(job, standing, device)
    if standing.info is None or over or standing.plan is None:
        facts = job.facts(device)
        plan = new_plan(listing, fingerprint_of(facts), per_file, per_unit)
        return Work(Change(plan, new=listing.num_rows), first_info(job, facts, plan), over, is_new=True)
    retry = _to_retry(job, standing)
    fingerprint = standing.info["fingerprint"]
    change = next_plan(standing.plan, listing, standing.there, retry, fingerprint, per_file, per_unit)
    listed = standing.plan.table.num_rows
    if change.vanished > config.input.max_removed_fraction * listed:
        raise UsageError(
            f"input.uri: {change.vanished:,} of the {listed:,} images that {config.output.uri} holds are not in "
            f"{config.input.uri} any more, more than input.max_removed_fraction "
            f"({config.input.max_removed_fraction:g}) allows; their rows would go; raise it if that is meant"
        )
    dirty = tuple(dict.fromkeys([*standing.dirty, *change.dirty]))
    change = replace(change, dirty=dirty)
    return Work(change, next_info(job, standing.info, change.plan))


def is_nothing_to_do(work: Work, standing: Standing) -> bool:
    """Whether the run is finished, and INPUT lists what it listed."""
    is_same = standing.plan is not None and work.plan is standing.plan and not work.change.dirty
    return standing.is_finished and is_same and set(work.plan.names()) == standing.there.keys()


def differences(held: dict[str, Any] | None, ours: dict[str, Any]) -> list[str]:
    """What differs between the facts of two fingerprints, in words. Fewer GPUs, or none, may finish a run."""
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


def _to_retry(job: Job, standing: Standing) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Image ids of the rows that run.retry asks to be labelled again."""
    wanted = job.config.run.retry
    ids: list[int] = []
    if wanted == "tiff" and standing.plan is not None:
        ids = standing.plan.table.filter(named_tiff(standing.plan.table))["image_id"].to_pylist()
    elif wanted is not None:
        reason, index = wanted.partition("=")[2], read_index(job.run)
        for name, entry in standing.there.items():
            known = index.get(name)
            if known is not None and known.version == entry.version and not known.error:
                continue
            rows = job.run.read_annotations(entry.uri, ["image_id", "error"]).to_pylist()
            ids += [row["image_id"] for row in rows if row["error"] and _is_meant(row["error"], reason)]
    return np.array(ids, dtype=np.int64)


def named_tiff(listing: pa.Table) -> pa.ChunkedArray:
    """Which images of a listing are TIFFs by their names."""
    return pc.match_substring_regex(listing["uri"], r"(?i)\.tiff?$")


def _is_meant(error: Mapping[str, str], reason: str) -> bool:
    return not reason or reason in (error["stage"], error["type"], f"{error['stage']}/{error['type']}")
