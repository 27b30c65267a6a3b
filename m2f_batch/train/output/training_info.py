"""Reads and writes finetune.json, which says of a training what decides its weights, and how far it is.

``finished_at`` is written last of all. With ``is_removed`` the rest of OUTPUT is being deleted for a new training.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2f_batch.errors import RunError
from m2f_batch.messages.spoken import now
from m2f_batch.runs.held_folder import HeldFolder, json_bytes
from m2f_batch.storage.json_text import JsonObject, json_object_or_none
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import NotFound
from m2f_batch.train.layout import INFO
from m2f_batch.train.start.job import TrainJob
from m2f_batch.vision.label_settings import installed_versions


@dataclass(frozen=True)
class TrainingInfo:
    """The content of finetune.json.

    facts: what decides the weights.
    overwrites: whether the last attempt was given ``output.overwrite``.
    tree: the whole JSON object.
    """

    facts: Mapping[str, Any]
    attempts: int
    overwrites: bool
    is_finished: bool
    is_removed: bool
    tree: JsonObject

    @classmethod
    def of(cls, tree: JsonObject) -> "TrainingInfo":
        """Return the tree as typed values. Raises LookupError or TypeError where it is not that of a training."""
        overwrites = bool(tree["config"]["output"]["overwrite"])
        return cls(tree["facts"], tree["attempts"], overwrites, "finished_at" in tree, "is_removed" in tree, tree)

    def differences(self, job: TrainJob) -> list[str]:
        """Name the facts that the training has otherwise than the job."""
        return [name for name, value in job.facts.items() if self.facts.get(name) != value]


def read_tree(place: HeldFolder) -> JsonObject | None:
    """Read the JSON object of finetune.json, None where there is none. Raises RunError for other text."""
    try:
        tree = json_object_or_none(place.store.read(place.path(INFO)))
    except NotFound:
        return None
    if tree is None:
        raise RunError(f"{place.path(INFO)} is not JSON")
    return tree


def read_info(place: HeldFolder) -> TrainingInfo | None:
    """Read finetune.json, None where there is none. Raises RunError for another file of that name."""
    tree = read_tree(place)
    try:
        return None if tree is None else TrainingInfo.of(tree)
    except (LookupError, TypeError):
        raise RunError(f"{place.path(INFO)} is not the finetune.json of a training") from None


def write_attempt(place: HeldFolder, before: TrainingInfo | None, job: TrainJob) -> None:
    """Begin a training, or the next attempt of the one ``before``."""
    tree: JsonObject = _new(job) if before is None else before.tree
    attempt = {"config": job.config.model_dump(mode="json"), "versions": installed_versions()}
    _write(place, tree | attempt | {"attempts": tree["attempts"] + 1})


def write_finished(place: HeldFolder) -> None:
    """Say that the training is done."""
    tree = retry_write(lambda: read_tree(place))
    _write(place, (tree or {}) | {"finished_at": now()})


def write_removed(place: HeldFolder, info: TrainingInfo) -> None:
    """Say that the training is being deleted."""
    _write(place, {key: value for key, value in info.tree.items() if key != "finished_at"} | {"is_removed": True})


def _new(job: TrainJob) -> JsonObject:
    return {
        "run_id": uuid.uuid4().hex,
        "started_at": now(),
        "facts": job.facts,
        "task": job.task,
        "steps": job.steps,
        "images": {"train": job.train.table.num_rows, "val": 0 if job.val is None else job.val.table.num_rows},
        "attempts": 0,
    }


def _write(place: HeldFolder, tree: JsonObject) -> None:
    retry_write(lambda: place.write(INFO, json_bytes(tree)))
