"""Plans of ten images, and their units as a run commits them."""

import uuid
from dataclasses import replace

import pyarrow as pa
from support.memory_store import Killed, MemoryStore
from support.protocol import ids, info_of, listing_of, rows_of_unit

from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.plan import Plan, Unit, new_plan, pending
from m2f_batch.runs.writing.commit import commit

IMAGES = {f"/in/{number:02d}.jpg": "v1" for number in range(10)}


def a_plan(images: dict[str, str] | None = None, *, file: int = 6, unit: int = 2) -> Plan:
    return new_plan(listing_of(IMAGES if images is None else images), "f", file, unit)


def units_of(plan: Plan) -> list[Unit]:
    return [*pending(plan, ())]


def put(run: RunDirectory, unit: Unit) -> pa.Table:
    return commit(run, unit.name, rows_of_unit(unit))


def seen(run: RunDirectory) -> list[int]:
    """The image ids of all rows, file by file."""
    return [image for uri in run.annotation_files() for image in ids(run.read_annotations(uri))]


def held(uri: str, plan: Plan) -> RunDirectory:
    """The next holder of a run; ``plan`` is the run's from now on."""
    plain = open_directory(uri)
    for token in range(1, 9):
        if plain.store.write_new(plain.path(f"_state/lease/{token:09d}.json"), uuid.uuid4().bytes):
            break
    plain.store.open_staging(plain.staging_of(token))
    run = replace(plain, fence=Fence(token, plan.plan_id))
    run.write_manifest(plan.manifest())
    run.write_info(info_of(plan, token))
    return run


def plan_of_run(run: RunDirectory) -> Plan:
    plan = run.read_plan()
    assert plan is not None
    return plan


class Fuse:
    """Kills, or fails, in the n-th request that writes."""

    def __init__(self, store: MemoryStore, number: int, error: type[BaseException] = Killed) -> None:
        self.left, self.error = number, error
        store.before_write = self

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error
