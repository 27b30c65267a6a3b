"""OUTPUT of a training, held by one command at a time, and what it says about the training there.

OUTPUT/finetune.json    config, what decides the weights, attempts; ``finished_at`` is written last of all.
                        With ``is_removed`` the rest is being deleted, to make room for a new training
OUTPUT/_state/lease/    who works here
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.messages.spoken import now
from m2f_batch.runs.held_folder import Fence, HeldFolder, json_bytes, open_folder
from m2f_batch.runs.hold import held_folder
from m2f_batch.storage.json_text import json_object_or_none
from m2f_batch.storage.retries import retry_before_run, retry_write
from m2f_batch.storage.store import NotFound
from m2f_batch.train.layout import CHECKPOINTS, CURVES, EVENTS, INFO, MARKER, METRICS, MODEL_FILES, NONFINITE
from m2f_batch.train.start.job import TrainJob
from m2f_batch.vision.label_settings import installed_versions

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Held:
    """OUTPUT while it is ours; ``is_finished``: there is nothing to do."""

    place: HeldFolder
    is_finished: bool


def check_place(job: TrainJob) -> dict[str, Any] | None:
    """What finetune.json says, None where there is none; ``goes_on`` says what becomes of it.

    Raises UsageError where OUTPUT holds anything that must not go for this command.
    """
    uri = job.config.output.uri
    place = open_folder(uri)
    try:
        info = retry_before_run(lambda: _info(place))
        others = [] if info is not None else retry_before_run(lambda: _foreign(place))
        # before its first checkpoint there is nothing to lose: a mistake found late is corrected in the same OUTPUT
        is_kept = info is not None and ("finished_at" in info or bool(retry_before_run(lambda: _markers(place))))
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError.about("output.uri", error) from None
    if others:
        raise UsageError(
            "is there, and is no training of ours",
            field="output.uri",
            value=Plain(others[0]),
            hint="give another OUTPUT",
        )
    if info is None or job.config.output.overwrite or "is_removed" in info:
        return info
    if is_kept and (different := _different(info, job)):
        raise UsageError(
            f"holds a training with other settings ({', '.join(different)})",
            field="output.uri",
            value=Plain(uri),
            hint="give another OUTPUT, the settings in its finetune.json, or output.overwrite to start anew",
        )
    return info


def goes_on(info: dict[str, Any] | None, job: TrainJob) -> bool:
    """Whether the command goes on with the training of ``info``; else it begins one, and that one is deleted."""
    if info is None or "is_removed" in info or _different(info, job):
        return False
    # with overwrite it is the same command only if it overwrote the last time, too, and was killed
    return not job.config.output.overwrite or ("finished_at" not in info and info["config"]["output"]["overwrite"])


def is_finished(info: dict[str, Any] | None, job: TrainJob) -> bool:
    """Whether there is nothing to do."""
    return goes_on(info, job) and "finished_at" in (info or {})


def check_seen(place: HeldFolder) -> None:
    """Raise RunError where this process's node does not see the OUTPUT that the command has begun."""
    if retry_write(lambda: _info(place)) is None:
        raise RunError(
            f"what is written to {place.uri} is not to be seen on node {os.uname().nodename}; with "
            "several nodes give an object-store URI, or a directory that all of them share",
            field="output.uri",
        )


@contextmanager
def held(job: TrainJob, say: Callable[[str], None]) -> Iterator[Held]:
    """OUTPUT under a lease, ready to be trained in. Raises UsageError when another command holds it."""
    place = open_folder(job.config.output.uri)
    with held_folder(place, LEASE_SECONDS, say, lambda: place.store.exists(place.path(INFO))) as lease:
        yield _begun(job, replace(place, fence=Fence(lease.token, "")))


def finish(place: HeldFolder) -> None:
    """Say that all is done."""
    info = retry_write(lambda: _info(place)) or {}
    retry_write(lambda: place.write(INFO, json_bytes(info | {"finished_at": now()})))


def _begun(job: TrainJob, place: HeldFolder) -> Held:
    info = check_place(job)  # again: it may have changed while we waited
    if is_finished(info, job):
        return Held(place, True)
    if info is not None and not goes_on(info, job):
        _remove(place, info)
        info = None
    begun = info or {
        "run_id": uuid.uuid4().hex,
        "started_at": now(),
        "facts": job.facts,
        "task": job.task,
        "steps": job.steps,
        "images": {"train": job.train.table.num_rows, "val": 0 if job.val is None else job.val.table.num_rows},
        "attempts": 0,
    }
    told = {"config": job.config.model_dump(mode="json"), "versions": installed_versions()}
    begun |= told | {"attempts": begun["attempts"] + 1}
    retry_write(lambda: place.write(INFO, json_bytes(begun)))
    return Held(place, False)


def _different(info: dict[str, Any], job: TrainJob) -> list[str]:
    """What the training of ``info`` has otherwise."""
    return [name for name, value in job.facts.items() if info["facts"].get(name) != value]


def _remove(place: HeldFolder, info: dict[str, Any]) -> None:
    """Delete a training but for its finetune.json, which says so first: a kill at any moment leaves what goes on.

    The checkpoints' markers go before the rest: what is half deleted is no checkpoint.
    """
    told = {key: value for key, value in info.items() if key != "finished_at"} | {"is_removed": True}
    retry_write(lambda: place.write(INFO, json_bytes(told)))
    folders = (CHECKPOINTS, EVENTS, NONFINITE)
    there = retry_write(lambda: [entry.uri for name in folders for entry in place.store.list(f"{place.path(name)}/")])
    markers = retry_write(lambda: _markers(place))
    retry_write(lambda: place.delete(markers))
    retry_write(lambda: place.delete([*({*there} - {*markers}), *map(place.path, (*MODEL_FILES, METRICS, CURVES))]))


def _markers(place: HeldFolder) -> list[str]:
    """The files that make folders whole checkpoints."""
    entries = place.store.list(f"{place.path(CHECKPOINTS)}/")
    return [entry.uri for entry in entries if entry.uri.endswith(f"/{MARKER}")]


def _foreign(place: HeldFolder) -> list[str]:
    """Files in OUTPUT that no training wrote: a lease may be there already."""
    ours = place.path("_state/")
    return [entry.uri for entry in place.store.list(f"{place.uri}/") if not entry.uri.startswith(ours)][:1]


def _info(place: HeldFolder) -> dict[str, Any] | None:
    try:
        info = json_object_or_none(place.store.read(place.path(INFO)))
    except NotFound:
        return None
    if info is None:
        raise RunError(f"{place.path(INFO)} is not JSON")
    return info
