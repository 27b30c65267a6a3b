"""Units become files: by whoever comes last, once, whatever is tried again, raced for, or killed in between."""

import pickle
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.committed_units import IMAGES, Fuse, a_plan, held, plan_of_run, put, seen, units_of
from support.memory_store import Killed
from support.protocol import World, ids, listing_of, rows_of_unit

from m2f_batch.errors import TransientError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.plan import Plan, Unit, pending
from m2f_batch.runs.writing.commit import commit, staged, staged_files
from m2f_batch.runs.writing.repair import clean, join_whole, sweep
from m2f_batch.storage import retries


@pytest.fixture(params=["local", "moto", "ceph"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    """A run directory on each kind of store, held, with a plan and a run.json."""
    place = str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_s3").uri
    return held(f"{place}/run", a_plan())


def test_units_are_joined_by_whoever_comes_last(run: RunDirectory) -> None:
    plan = plan_of_run(run)
    units = units_of(plan)
    assert [len(unit.refs) for unit in units] == [2, 2, 2, 2, 2]
    for number, unit in enumerate([units[2], units[3], units[0], units[1], units[4]], 1):
        assert put(run, unit).equals(rows_of_unit(unit))
        assert len(run.annotation_files()) == (number >= 4) + (number == 5), "whole, or not at all"
        assert len(staged(run)) == {1: 1, 2: 2, 3: 3, 4: 1, 5: 0}[number]
    assert {name: ids(run.read_annotations(entry.uri)) for name, entry in run.committed().items()} == {
        name: [
            image for image, file in zip(ids(plan.table), plan.table["file"].to_pylist(), strict=True) if file == name
        ]
        for name in plan.table["file"].unique().to_pylist()
    }
    tables = [run.read_annotations(uri) for uri in run.annotation_files()]
    wanted = pa.concat_tables([rows_of_unit(unit) for unit in units])
    assert pa.concat_tables(tables).sort_by("uri").equals(wanted)
    assert staged_files(run, [*run.committed()]) == []


def test_racing_committers_and_retries_of_them(run: RunDirectory) -> None:
    """All units at once, and each by two workers."""
    units = units_of(plan_of_run(run)) * 2
    start = threading.Barrier(len(units))

    def race(unit: Unit) -> bool:
        start.wait()
        return put(run, unit).equals(rows_of_unit(unit))

    with ThreadPoolExecutor(len(units)) as pool:
        assert all(pool.map(race, units))
    join_whole(run, plan_of_run(run), run.committed(), staged(run))
    sweep(run, plan_of_run(run), run.committed())
    assert sorted(seen(run)) == sorted(ids(plan_of_run(run).table))
    assert staged(run) == []


def test_a_unit_that_is_tried_again_after_its_file_was_joined(run: RunDirectory) -> None:
    units = units_of(plan_of_run(run))
    for unit in units:
        put(run, unit)
    before = run.committed()
    assert put(run, units[0]).equals(rows_of_unit(units[0]))
    assert staged(run) == [units[0].name], "left over, seen by no reader"
    assert [*pending(plan_of_run(run), run.committed(), staged(run))] == []
    sweep(run, plan_of_run(run), run.committed())
    assert staged(run) == []
    for unit in units[:3]:  # all of them: joined again, into nothing new
        put(run, unit)
    assert staged(run) == [] and run.committed() == before


def test_what_stands_is_what_is_counted(run: RunDirectory) -> None:
    """Rows of a GPU differ from try to try: the first stay."""
    units = units_of(plan_of_run(run))
    for unit in (units[0], units[3], units[4]):
        first, other = rows_of_unit(unit), rows_of_unit(unit)
        other = other.set_column(3, other.schema.field("height"), pa.array([7] * len(other), pa.int32()))
        assert commit(run, unit.name, first).equals(first)
        if unit is not units[4]:
            assert commit(run, unit.name, other).equals(first)


@pytest.mark.parametrize("number", range(1, 6))
def test_killed_at_any_request_of_the_last_unit(number: int) -> None:
    """Its part, the joined file, and the three parts that are deleted."""
    world = World(file=6, unit=2)
    images = {uri: IMAGES[uri] for uri in [*IMAGES][:6]}
    held = world.take(images)
    begin(held.run, held.work)
    units = [*held.units]
    for unit in units[:2]:
        put(held.run, unit)
    Fuse(world.store, number)
    with pytest.raises(Killed):
        put(held.run, units[2])
    world.store.before_write = lambda: None
    again = world.take(images)
    assert [unit.name for unit in again.units] == ([units[2].name] if number == 1 else [])
    done = begin(again.run, again.work)
    assert done.images == (4 if number == 1 else 6)
    assert sorted(world.rows()) == ([] if number == 1 else sorted(ids(listing_of(images))))
    world.do(again)
    assert sorted(world.rows()) == sorted(ids(listing_of(images))) and staged(world.plain) == []


def test_join_whole_leaves_alone_what_is_not_whole() -> None:
    world = World()
    run, plan = world.plain, a_plan()
    for unit in (units := units_of(plan))[:2]:
        put(run, unit)
    assert join_whole(run, plan, (), staged(run)) == [] and len(staged(run)) == 2
    run.store.write(run.path(f"_state/parts/{units[2].name[:32]}/{units[2].name}.parquet"), _bytes(units[2]))
    assert join_whole(run, plan, {units[2].name[:32]}, staged(run)) == [], "it is there"
    assert join_whole(run, plan, (), staged(run)) == [units[2].name[:32]]
    assert staged(run) == [] and len(seen(run)) == 6


def _bytes(unit: Unit) -> bytes:
    return parquet_bytes(rows_of_unit(unit))


def test_clean_drops_rows_and_keeps_the_others_as_they_are(run: RunDirectory) -> None:
    plan = a_plan(file=5, unit=5)
    run.write_manifest(plan.manifest())
    for unit in units_of(plan):
        put(run, unit)
    before = run.committed()
    first, second = before
    tables = {name: run.read_annotations(entry.uri) for name, entry in before.items()}
    wanted = plan.table.filter(pa.array([i not in (1, 3) for i in range(10)]))
    smaller = Plan(plan.plan_id, 5, wanted)
    for _ in range(2):  # again after a kill
        clean(run, smaller, [*before, "0" * 32], run.committed())
        after = {name: run.read_annotations(entry.uri) for name, entry in run.committed().items()}
        kept = {name: rows.filter(pa.array([i in ids(wanted) for i in ids(rows)])) for name, rows in tables.items()}
        assert after == kept and sorted(map(len, after.values())) == [3, 5]
        assert sum(entry == before[name] for name, entry in run.committed().items()) == 1, "one was clean"
    none = Plan(plan.plan_id, 5, wanted.filter(pa.array([file == second for file in wanted["file"].to_pylist()])))
    for _ in range(2):
        clean(run, none, before, run.committed())
        assert [*run.committed()] == [second]
    clean(run, none, [first], before)  # what was there when somebody looked


def travelled(act: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """A map over what another process would get, from the last to the first."""
    return map(act, [pickle.loads(pickle.dumps(item)) for item in items][::-1])


@pytest.mark.parametrize("seed", range(4))
def test_clean_of_scattered_changes_leaves_what_is_wanted(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    images = {f"/in/{number:03d}.jpg": "v1" for number in range(200)}
    plan = a_plan(images, file=9, unit=9)
    held_run = held(str(tmp_path / "run"), plan)
    for unit in units_of(plan):
        put(held_run, unit)
    gone = {*rng.sample(ids(plan.table), rng.randrange(60)), *ids(plan.table)[18:27]}  # and one file as a whole
    wanted = plan.table.filter(pa.array([image not in gone for image in ids(plan.table)]))
    files = dict(zip(ids(plan.table), plan.table["file"].to_pylist(), strict=True))
    dirty, before = {files[image] for image in gone}, held_run.committed()
    clean(held_run, Plan(plan.plan_id, 9, wanted), sorted(dirty), before, travelled)
    after = held_run.committed()
    rows = {name: ids(held_run.read_annotations(entry.uri)) for name, entry in after.items()}
    oracle: dict[str, list[int]] = {}
    for image, file in files.items():
        if image not in gone:
            oracle.setdefault(file, []).append(image)
    assert rows == oracle
    assert {name for name, entry in before.items() if after.get(name) != entry} == dirty, "others were not touched"


def test_a_run_travels_as_its_place_and_its_fence(run: RunDirectory) -> None:
    again = pickle.loads(pickle.dumps(run))
    assert (again.uri, again.fence, type(again.store)) == (run.uri, run.fence, type(run.store))
    assert again.read_plan().plan_id == plan_of_run(run).plan_id


def test_clean_does_not_write_over_another(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = a_plan(file=10, unit=10)
    (unit,) = units_of(plan)
    put(run, unit)
    ((name, entry),) = run.committed().items()
    real = run.check_fence

    def check_fence(self: RunDirectory) -> None:
        real()
        run.store.write(entry.uri, _bytes(Unit(name, unit.refs[:9])))

    monkeypatch.setattr(RunDirectory, "check_fence", check_fence)
    monkeypatch.setattr(retries, "WRITE_SECONDS", 0.0)
    with pytest.raises(TransientError, match="other writers"):
        clean(run, Plan(plan.plan_id, 10, plan.table.slice(0, 8)), [name], run.committed())
    assert len(seen(run)) == 9


def test_sweep_deletes_what_the_plan_does_not_name(run: RunDirectory) -> None:
    plan, old = plan_of_run(run), a_plan()
    units, others = units_of(plan), units_of(old)
    for unit in [*units[:4], *others[:1], *others[3:]]:
        put(run, unit)
    put(run, units[1])
    run.store.write(run.path("annotations/theirs.txt"), b"x")
    sweep(run, plan, run.committed())
    assert staged(run) == [units[3].name]
    assert seen(run) == [ref.image_id for unit in units[:3] for ref in unit.refs]
    assert run.store.exists(run.path("annotations/theirs.txt"))
