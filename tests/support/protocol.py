"""Runs in memory, by the real protocol and without images: listings, rows, and one attempt of a command."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.memory_store import MemoryStore

from m2f_batch.errors import ImageError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import OutputState, Work, read_output_state
from m2f_batch.records import ImageRef, error_row, ok_row, table_of
from m2f_batch.runs.directory import INFO_KEYS, RunDirectory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.plan import Change, Plan, Unit, Units, new_plan, next_plan, pending
from m2f_batch.runs.writing.commit import commit, staged
from m2f_batch.runs.writing.repair import sweep
from m2f_batch.runs.writing.sidecars import names_in

FILE, UNIT = 4, 2  # images


def listing_of(images: Mapping[str, str], **columns: list[Any]) -> pa.Table:
    """The listing of images by uri, with their versions."""
    refs = [ImageRef(uri, images[uri]) for uri in sorted(images)]
    table = {
        "image_id": pa.array([ref.image_id for ref in refs], pa.int64()),
        "uri": pa.array([ref.uri for ref in refs], pa.string()),
        "version": pa.array([ref.version for ref in refs], pa.string()),
    }
    return pa.table({**table, **columns})


def rows_of_unit(unit: Unit) -> pa.Table:
    """The rows that labelling gives; the 3rd version of an image is none that can be read."""
    error = ImageError("decode", "Truncated", "x")
    return table_of([error_row(r, error) if r.version == "v3" else ok_row(r, (1, 2), []) for r in unit.refs])


def boxes_of_unit(unit: Unit) -> dict[str, pa.Table]:
    """The sidecar "boxes" of a unit: none, one or two rows for an image, which follow from its id and version."""
    of = [ref for ref in unit.refs for _ in range(ref.image_id % 3)]
    table = {"image_id": [ref.image_id for ref in of], "box": [f"{ref.uri} {ref.version}" for ref in of]}
    return {"boxes": pa.table(table, schema=pa.schema([("image_id", pa.int64()), ("box", pa.string())]))}


def ids(table: pa.Table) -> list[int]:
    """Its image ids."""
    return [int(i) for i in table["image_id"].to_pylist()]


def info_of(plan: Plan, token: int, run_id: str = "r") -> dict[str, Any]:
    """run.json, as far as storage asks."""
    counts = {"listed": plan.table.num_rows, "ok": 0, "error": 0, "remaining": plan.table.num_rows}
    more = {"run_id": run_id, "token": token, "plan": plan.plan_id, "images": counts, "attempts": 1}
    return {**dict.fromkeys(INFO_KEYS), "fingerprint": "f", **more}


@dataclass
class Held:
    """An attempt that holds the run, and what it is to do."""

    run: RunDirectory
    work: Work
    units: Units


class World:
    """A run directory in memory, and all who ever worked on it."""

    def __init__(
        self, file: int = FILE, unit: int = UNIT, *, with_boxes: bool = False, is_decided_before: bool = False
    ) -> None:
        self.with_boxes, self.is_decided_before = with_boxes, is_decided_before
        self.before: OutputState | None = None  # what the last attempt saw, before it wrote anything
        self.store, self.token, self.file, self.unit = MemoryStore(), 0, file, unit
        self.plain = RunDirectory("m/run", self.store)
        self.old: list[tuple[Fence, Unit]] = []  # every unit that somebody may be labelling still

    def take(self, images: Mapping[str, str], retry: bool = False) -> Held:
        """The next attempt has the lease, and knows what to do; nothing else was written.

        In a world that ``is_decided_before``, it had read OUTPUT before the last attempt wrote anything.
        """
        self.token += 1
        self.store.write(self.plain.path(f"_state/lease/{self.token:09d}.json"), b"{}")
        state, listing = read_output_state(self.plain, self.before), listing_of(images)
        if self.before is not None and state.is_same(self.before):
            state = self.before
        self.before = state if self.is_decided_before else None
        if state.plan is None:
            change = Change(new_plan(listing, "f", self.file, self.unit))
        else:
            wanted = np.array(self.errors() if retry else [], np.int64)
            change = next_plan(state.plan, listing, state.there, wanted, "f", self.file, self.unit)
        change = replace(change, dirty=tuple(dict.fromkeys([*state.dirty, *change.dirty])))
        fence = Fence(self.token, change.plan.plan_id)
        units = pending(change.plan, {*state.there, *change.merged}, staged(self.plain))
        work = Work(change, info_of(change.plan, self.token))
        return Held(replace(self.plain, fence=fence), work, units)

    def do(self, held: Held) -> None:
        """Everything, to the end, but for the proof."""
        begin(held.run, held.work, self.each)
        assert held.run.fence is not None
        self.old += [(held.run.fence, unit) for unit in held.units]
        for unit in held.units:
            self.commit(held.run, unit)
        sweep(held.run, held.work.plan, held.run.committed())

    def commit(self, run: RunDirectory, unit: Unit) -> None:
        """Commit a unit, with its sidecar if the run has them."""
        commit(run, unit.name, rows_of_unit(unit), boxes_of_unit(unit) if self.with_boxes else None)

    def boxes(self) -> dict[str, list[str]]:
        """The sidecar of each file, by the name of the file."""
        files = [entry.uri for entry in self.store.list(f"{self.plain.path('boxes')}/")]
        return {uri.rpartition("/")[2]: self.plain.read_annotations(uri)["box"].to_pylist() for uri in files}

    def wanted_boxes(self) -> dict[str, list[str]]:
        """What ``boxes`` must be, as the rows have it."""
        wanted = {}
        for uri in self.plain.annotation_files():
            rows = self.plain.read_annotations(uri)
            assert names_in(rows) == (["boxes"] if self.with_boxes else [])
            refs = tuple(ImageRef(row["uri"], row["version"]) for row in rows.to_pylist())
            wanted[uri.rpartition("/")[2]] = boxes_of_unit(Unit("", refs))["boxes"]["box"].to_pylist()
        return wanted

    def each(self, act: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """A map in any order, as tasks on a cluster end."""
        order = [*items]
        random.Random(self.token).shuffle(order)
        return map(act, order)

    def rows(self) -> list[int]:
        """The image ids of all rows that readers see."""
        return [i for uri in self.plain.annotation_files() for i in ids(self.plain.read_annotations(uri))]

    def doubled(self) -> list[int]:
        """Image ids that readers see more than once."""
        return [i for i, count in Counter(self.rows()).items() if count > 1]

    def errors(self) -> list[int]:
        """The image ids of rows with an error."""
        tables = [self.plain.read_annotations(uri) for uri in self.plain.annotation_files()]
        return [row["image_id"] for table in tables for row in table.to_pylist() if row["error"]]


@contextmanager
def too_late() -> Iterator[None]:
    """Who works within was stopped after asking whether the run was still theirs, and goes on only now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "check_fence", lambda self: None)
        yield
