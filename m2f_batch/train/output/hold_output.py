"""Holds OUTPUT of a training by a lease, ready to be trained in. ``output_state`` decides what becomes of it.

``runs/hold`` does so for runs and trainings alike, by the leases of ``runs/lease``.

OUTPUT/finetune.json    the provenance of the training: see ``training_info``
OUTPUT/_state/lease/    who works here
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from m2f_batch.errors import RunError
from m2f_batch.runs.held_folder import Fence, HeldFolder, open_folder
from m2f_batch.runs.hold import hold_folder
from m2f_batch.storage.retries import retry_write
from m2f_batch.train.layout import CHECKPOINTS, CURVES, EVENTS, INFO, METRICS, MODEL_FILES, NONFINITE
from m2f_batch.train.output.output_state import check_place, goes_on, is_finished, list_markers
from m2f_batch.train.output.training_info import TrainingInfo, read_tree, write_attempt, write_removed
from m2f_batch.train.start.job import TrainJob

LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Held:
    """OUTPUT while this command holds it. With ``is_finished`` there is nothing to do."""

    place: HeldFolder
    is_finished: bool


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
    markers = retry_write(lambda: list_markers(place))
    retry_write(lambda: place.delete(markers))
    retry_write(lambda: place.delete([*({*there} - {*markers}), *map(place.path, (*MODEL_FILES, METRICS, CURVES))]))
