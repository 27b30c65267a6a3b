"""OUTPUT of a training, held by one command at a time, and what it says about the training there.

OUTPUT/finetune.json    config, what decides the weights, attempts; ``finished_at`` is written last of all
OUTPUT/_state/lease/    who works here
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.storage.commit import patiently
from m2f_batch.storage.lease import acquire
from m2f_batch.storage.retries import steadily
from m2f_batch.storage.run import Fence, RunDirectory, json_bytes, open_run
from m2f_batch.storage.store import NotFound
from m2f_batch.train.job import TrainJob
from m2f_batch.train.layout import CHECKPOINTS, CURVES, EVENTS, INFO, MARKER, METRICS, MODEL_FILES, NONFINITE
from m2f_batch.vision.labeling import installed_versions

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Held:
    """OUTPUT while it is ours; ``is_finished``: there is nothing to do."""

    place: RunDirectory
    is_finished: bool


def check_place(job: TrainJob) -> dict[str, Any] | None:
    """What finetune.json says; None for a new training. Raises UsageError where OUTPUT holds anything else."""
    uri = job.config.output.uri
    place = open_run(uri)
    try:
        info = steadily(lambda: _info(place))
        others = [] if info is not None else steadily(lambda: _foreign(place))
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError(f"output.uri: {error}") from None
    if others:
        raise UsageError(f"output.uri: {others[0]} is there, and is no training of ours; give another OUTPUT")
    if info is None or job.config.output.overwrite:
        return info
    different = [name for name, value in job.facts.items() if info["facts"].get(name) != value]
    if different:
        raise UsageError(
            f"output.uri: {uri} holds a training with other settings ({', '.join(different)}); give another OUTPUT, "
            "the settings in its finetune.json, or output.overwrite to start anew"
        )
    return info


@contextmanager
def held(job: TrainJob, say: Callable[[str], None]) -> Iterator[Held]:
    """OUTPUT under a lease, ready to be trained in. Raises UsageError when another command holds it."""
    check_place(job)
    place = open_run(job.config.output.uri)
    lease = acquire(place.store, place.lease_folder, LEASE_SECONDS, say)
    place = replace(place, fence=Fence(lease.token, ""))
    with lease.kept():
        staging = place.staging_of(lease.token)
        place.store.open_staging(staging)
        try:
            yield _begun(job, place)
        finally:
            with suppress(TransientError, RunError):
                place.store.close_staging(staging)
                place.store.prune(place.path("_state/tmp"))
                lease.release()


def finish(place: RunDirectory) -> None:
    """Say that all is done."""
    info = patiently(lambda: _info(place)) or {}
    patiently(lambda: place.write(INFO, json_bytes(info | {"finished_at": _now()})))


def _begun(job: TrainJob, place: RunDirectory) -> Held:
    info = check_place(job)  # again: it may have changed while we waited
    if info is not None and job.config.output.overwrite and not _is_same(info, job):
        _remove(place)
        info = None
    if info is not None and info.get("finished_at"):
        return Held(place, True)
    begun = info or {
        "started_at": _now(),
        "facts": job.facts,
        "task": job.task,
        "steps": job.steps,
        "images": {"train": job.train.table.num_rows, "val": 0 if job.val is None else job.val.table.num_rows},
        "attempts": 0,
    }
    told = {"config": job.config.model_dump(mode="json"), "versions": installed_versions()}
    begun |= told | {"attempts": begun["attempts"] + 1}
    patiently(lambda: place.write(INFO, json_bytes(begun)))
    return Held(place, False)


def _is_same(info: dict[str, Any], job: TrainJob) -> bool:
    """Whether an unfinished training of these settings is there, which goes on rather than being deleted."""
    return info["facts"] == job.facts and not info.get("finished_at")


def _remove(place: RunDirectory) -> None:
    """Delete a training; the checkpoints' markers first."""
    patiently(lambda: place.delete([place.path(INFO)]))
    folders = (CHECKPOINTS, EVENTS, NONFINITE)
    there = patiently(lambda: [entry.uri for name in folders for entry in place.store.list(f"{place.path(name)}/")])
    markers = [uri for uri in there if uri.endswith(MARKER)]
    patiently(lambda: place.delete(markers))
    patiently(lambda: place.delete([*({*there} - {*markers}), *map(place.path, (*MODEL_FILES, METRICS, CURVES))]))


def _foreign(place: RunDirectory) -> list[str]:
    """Files in OUTPUT that no training wrote: a lease may be there already."""
    ours = place.path("_state/")
    return [entry.uri for entry in place.store.list(f"{place.uri}/") if not entry.uri.startswith(ours)][:1]


def _info(place: RunDirectory) -> dict[str, Any] | None:
    try:
        info = json.loads(place.store.read(place.path(INFO)))
    except NotFound:
        return None
    except ValueError:
        raise RunError(f"{place.path(INFO)} is not JSON") from None
    return dict(info)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
