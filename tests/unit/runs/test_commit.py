"""Units become files: by whoever comes last, once, whatever is tried again, raced for, or killed in between."""

import pickle
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.memory_store import Killed, MemoryStore
from support.protocol import World, ids, info_of, listing_of, rows_of_unit, too_late

from m2f_batch.errors import TransientError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work, read_output_state
from m2f_batch.runs.directory import RunDirectory, open_directory, parquet_bytes
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.lease import acquire
from m2f_batch.runs.plan import Change, Plan, Unit, new_plan, pending
from m2f_batch.runs.writing import commit as commits
from m2f_batch.runs.writing.commit import commit, staged, staged_files
from m2f_batch.runs.writing.repair import clean, join_whole, remove, sweep, write_dirty
from m2f_batch.storage import retries
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import Fenced, StoreUnavailable

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


@pytest.fixture(params=["local", "moto", "ceph"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    """A run directory on each kind of store, held, with a plan and a run.json."""
    place = str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_s3").uri
    return held(f"{place}/run", a_plan())


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


class Fuse:
    """Kills, or fails, in the n-th request that writes."""

    def __init__(self, store: MemoryStore, number: int, error: type[BaseException] = Killed) -> None:
        self.left, self.error = number, error
        store.before_write = self

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


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


@pytest.mark.parametrize("act", ["file", "part", "delete", "manifest", "info", "dirty", "success", "clean", "remove"])
def test_who_lost_the_run_writes_and_deletes_nothing(tmp_path: Path, act: str) -> None:
    """On a disk; also where it was stopped between asking and writing."""
    old = held(str(tmp_path / "run"), a_plan(file=4))
    old_units = units_of(plan_of_run(old))
    new = held(str(tmp_path / "run"), a_plan(file=4))
    for unit in units_of(plan_of_run(new)):
        put(new, unit)
    small = Plan("p", 2, plan_of_run(new).table.slice(0, 3))
    acts: dict[str, Callable[[], Any]] = {
        "file": lambda: put(old, old_units[4]),
        "part": lambda: put(old, old_units[0]),
        "delete": lambda: sweep(old, small, old.committed()),
        "manifest": lambda: old.write_manifest(small.manifest()),
        "info": lambda: old.write_info(info_of(small, 1)),
        "dirty": lambda: write_dirty(old, "p", ["x"]),
        "success": old.mark_success,
        "clean": lambda: clean(old, small, old.committed(), old.committed()),
        "remove": lambda: remove(old),
    }

    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    before = content()
    for is_late in (False, True):
        with pytest.raises(Fenced, match="another run has taken"):
            if is_late:
                with too_late():
                    acts[act]()
            else:
                acts[act]()
        assert content() == before


@pytest.mark.parametrize("kind", ["moto", "ceph"])
def test_a_late_write_to_a_bucket_is_taken_back(kind: str, request: pytest.FixtureRequest) -> None:
    """There is no folder to take away: who writes looks again, and no fixed name is written blindly."""
    uri = request.getfixturevalue(f"{kind}_s3").uri + "/run"
    old = held(uri, a_plan(file=4))
    first, *_, last = units_of(plan_of_run(old))
    same = held(uri, plan_of_run(old))
    with too_late():
        with pytest.raises(Fenced):
            put(old, last)
        assert [*old.committed()] == [last.name], "today's plan wants the same file"
        new = held(uri, a_plan())
        sweep(new, plan_of_run(new), new.committed())
        assert seen(new) == []
        with pytest.raises(Fenced):
            put(same, last)
        assert seen(new) == []
        put(same, first)
        assert seen(new) == [], "what waits for others is seen by no reader"
        with pytest.raises(Fenced):
            old.mark_success()
        assert not new.is_finished()
        with pytest.raises(Fenced):
            old.write_info(info_of(plan_of_run(old), 1))
    assert new.read_info()["token"] == 3


def test_a_manifest_is_not_replaced_by_a_late_request() -> None:
    """The old holder was stopped within: it knows the file that the new one found, and replaced by the same plan."""
    world = World()
    first = world.take(IMAGES)
    begin(first.run, first.work)
    stopped, other = world.take(IMAGES), a_plan()

    def take_over() -> None:
        world.store.before_write = lambda: None
        goes_on = world.take(IMAGES)
        begin(goes_on.run, goes_on.work)

    world.store.before_write = take_over
    with pytest.raises(TransientError, match="other writers"):
        stopped.run.write_manifest(other.manifest())
    with pytest.raises(Fenced):
        stopped.run.write_manifest(other.manifest())
    assert plan_of_run(world.plain).plan_id == first.work.plan.plan_id


def test_an_answer_that_was_lost_and_a_run_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file arrives after the take-over, the writer hears of a timeout only: it takes the file back all the same."""
    world = World(file=2, unit=2)
    old = world.take(IMAGES)
    begin(old.run, old.work)
    (unit, *_) = old.units
    real = world.store.write_new

    def write_new(uri: str, data: bytes, *, staging: str | None = None) -> bool:
        monkeypatch.undo()
        new = world.take(dict.fromkeys(IMAGES, "v2"))
        begin(new.run, new.work)
        real(uri, data)
        raise TransientError("ReadTimeoutError")

    monkeypatch.setattr(world.store, "write_new", write_new)
    with pytest.raises(Fenced):
        put(old.run, unit)
    assert world.rows() == []


def test_a_file_that_came_between_a_look_and_the_new_plan() -> None:
    """A late worker's file is swept before anything is labelled, where the plan was cut without it."""
    world = World(file=2, unit=2)
    old = world.take(IMAGES)
    begin(old.run, old.work)
    (unit, *_) = old.units
    new = world.take({uri: version for uri, version in IMAGES.items() if uri != "/in/00.jpg"})
    with too_late(), pytest.raises(Fenced):
        put(old.run, unit)
    assert world.rows() == [ref.image_id for ref in unit.refs]
    begin(new.run, new.work)
    assert world.rows() == []
    world.do(new)
    assert sorted(world.rows()) == sorted(ids(new.work.plan.table))


def test_faults_that_pass_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world, plan = World(), a_plan()
    monkeypatch.setattr(commits, "retry_write", lambda act: Retries(budget=60, sleep=lambda _: None).run(act))
    for number, unit in enumerate(units_of(plan)):
        Fuse(world.store, 1 + number % 2, TransientError)
        put(world.plain, unit)
    world.store.before_write = lambda: None
    assert seen(world.plain) and sorted(seen(world.plain)) == sorted(ids(plan.table))


def test_a_spent_budget_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    world, plan = World(), a_plan()
    monkeypatch.setattr(retries, "WRITE_SECONDS", 0.0)

    def fail() -> None:
        raise TransientError("SlowDown")

    world.store.before_write = fail
    with pytest.raises(TransientError, match=r"SlowDown \(1 tries in 0 s\)"):
        put(world.plain, units_of(plan)[0])
    world.store.before_write = lambda: None
    assert staged(world.plain) == [] and seen(world.plain) == []


def test_what_is_wrong_for_all_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def fail() -> None:
        raise StoreUnavailable("ENOSPC")

    world.store.before_write = fail
    with pytest.raises(StoreUnavailable):
        put(world.plain, units_of(a_plan())[0])


def test_files_of_a_plan_that_was_never_written_are_still_cleaned() -> None:
    """Killed while cleaning, and again before the next plan was written: what was to be cleaned is not forgotten."""
    world = World(file=10, unit=10)
    world.do(world.take(IMAGES))
    images = {uri: version for uri, version in IMAGES.items() if uri != "/in/03.jpg"}
    for number in (4, 3):  # after the manifest, the second time before it; of _SUCCESS, dirty, manifest, file
        held = world.take(images if number == 4 else images | {"/in/new.jpg": "v1"})
        Fuse(world.store, number)
        with pytest.raises(Killed):
            begin(held.run, held.work)
        world.store.before_write = lambda: None
    assert read_output_state(world.plain).dirty
    world.do(world.take(images))
    assert sorted(world.rows()) == sorted(ids(listing_of(images)))
    world.do(world.take(IMAGES))  # and the image that vanished is back
    assert sorted(world.rows()) == sorted(ids(listing_of(IMAGES)))


def test_a_finished_run_is_not_unfinished_by_who_lost_it(tmp_path: Path) -> None:
    """It was stopped right before its first request."""
    run = open_directory(str(tmp_path / "run"))
    plan = a_plan()
    old = held(run.uri, plan)
    new = held(run.uri, plan)
    new.mark_success()
    with pytest.raises(Fenced):
        begin(old, Work(Change(plan), info_of(plan, 1)))
    assert run.is_finished()


def test_a_lease_that_was_acquired_fences(tmp_path: Path) -> None:
    run = open_directory(str(tmp_path / "run"))
    lease = acquire(run.store, run.lease_folder, 60, print)
    mine = replace(run, fence=Fence(lease.token, "p"))
    run.store.open_staging(mine.staging or "")
    assert mine.write_new("annotations/" + "0" * 32 + ".parquet", b"x")
    lease.release()
    second = acquire(run.store, run.lease_folder, 60, print)
    assert second.token == 2
    with pytest.raises(Fenced):
        mine.write("run.json", b"{}")
