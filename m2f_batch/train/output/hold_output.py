"""Holds OUTPUT of a training by a lease, and decides whether a command starts, resumes or replaces the training there.

OUTPUT/finetune.json    the provenance of the training: see ``training_info``
OUTPUT/_state/lease/    who works here
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.runs.held_folder import Fence, HeldFolder, open_folder
from m2f_batch.runs.hold import hold_folder
from m2f_batch.storage.retries import retry_before_run, retry_write
from m2f_batch.train.layout import CHECKPOINTS, CURVES, EVENTS, INFO, MARKER, METRICS, MODEL_FILES, NONFINITE
from m2f_batch.train.output.training_info import TrainingInfo, read_info, read_tree, write_attempt, write_removed
from m2f_batch.train.start.job import TrainJob

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Held:
    """OUTPUT while this command holds it. With ``is_finished`` there is nothing to do."""

    place: HeldFolder
    is_finished: bool


def check_place(job: TrainJob) -> TrainingInfo | None:
    """Read the training in OUTPUT, None where there is none. ``goes_on`` decides what becomes of it.

    Raises UsageError where OUTPUT holds anything that this command must not delete.
    """
    uri = job.config.output.uri
    place = open_folder(uri)
    try:
        info = retry_before_run(lambda: read_info(place))
        others = [] if info is not None else retry_before_run(lambda: _foreign(place))
        # Before its first checkpoint there is nothing to lose, so a late mistake is corrected in the same OUTPUT.
        is_kept = info is not None and (info.is_finished or bool(retry_before_run(lambda: _markers(place))))
    except RunError as error:  # a file in its way, no bucket, wrong keys
        raise UsageError.about("output.uri", error) from None
    if others:
        raise UsageError(
            "is there, and is no training of ours",
            field="output.uri",
            value=Plain(others[0]),
            hint="give another OUTPUT",
        )
    if info is None or job.config.output.overwrite or info.is_removed:
        return info
    if is_kept and (different := info.differences(job)):
        raise UsageError(
            f"holds a training with other settings ({', '.join(different)})",
            field="output.uri",
            value=Plain(uri),
            hint="give another OUTPUT, the settings in its finetune.json, or output.overwrite to start anew",
        )
    return info


def goes_on(info: TrainingInfo | None, job: TrainJob) -> bool:
    """Return whether the command resumes the training of ``info``. Otherwise it deletes it and begins a new one."""
    if info is None or info.is_removed or info.differences(job):
        return False
    # with overwrite it is the same command only if it overwrote the last time, too, and was killed
    return not job.config.output.overwrite or (not info.is_finished and info.overwrites)


def is_finished(info: TrainingInfo | None, job: TrainJob) -> bool:
    """Return whether there is nothing to do."""
    return info is not None and info.is_finished and goes_on(info, job)


def check_seen(place: HeldFolder) -> None:
    """Raise RunError where this process's node does not see the OUTPUT that the command has begun."""
    if retry_write(lambda: read_tree(place)) is None:
        raise RunError(
            f"what is written to {place.uri} is not to be seen on node {os.uname().nodename}; with "
            "several nodes give an object-store URI, or a directory that all of them share",
            field="output.uri",
        )


@contextmanager
def held(job: TrainJob, say: Callable[[str], None]) -> Iterator[Held]:
    """Hold OUTPUT by a lease, ready to be trained in. Raises UsageError when another command holds it."""
    place = open_folder(job.config.output.uri)
    with hold_folder(place, LEASE_SECONDS, say, lambda: place.store.exists(place.path(INFO))) as lease:
        yield _begun(job, replace(place, fence=Fence(lease.token, "")))


def _begun(job: TrainJob, place: HeldFolder) -> Held:
    # OUTPUT is read once more, because its last holder may have written until the lease was ours
    info = check_place(job)
    if is_finished(info, job):
        return Held(place, True)
    if info is not None and not goes_on(info, job):
        _remove(place, info)
        info = None
    write_attempt(place, info, job)
    return Held(place, False)


def _remove(place: HeldFolder, info: TrainingInfo) -> None:
    """Delete a training but for its finetune.json, which says so first, so that a command goes on after any kill.

    The checkpoints' markers go before the rest, because a half deleted checkpoint must be none.
    """
    write_removed(place, info)
    folders = (CHECKPOINTS, EVENTS, NONFINITE)
    there = retry_write(lambda: [entry.uri for name in folders for entry in place.store.list(f"{place.path(name)}/")])
    markers = retry_write(lambda: _markers(place))
    retry_write(lambda: place.delete(markers))
    retry_write(lambda: place.delete([*({*there} - {*markers}), *map(place.path, (*MODEL_FILES, METRICS, CURVES))]))


def _markers(place: HeldFolder) -> list[str]:
    """List the files that make folders whole checkpoints."""
    entries = place.store.list(f"{place.path(CHECKPOINTS)}/")
    return [entry.uri for entry in entries if entry.uri.endswith(f"/{MARKER}")]


def _foreign(place: HeldFolder) -> list[str]:
    """List one file in OUTPUT that no training wrote. A lease may be there already."""
    ours = place.path("_state/")
    return [entry.uri for entry in place.store.list(f"{place.uri}/") if not entry.uri.startswith(ours)][:1]
