"""Who lost a run, an answer or a file changes nothing of another's, and waits for faults that pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.committed_units import IMAGES, Fuse, a_plan, held, plan_of_run, put, seen, units_of
from support.memory_store import Killed
from support.protocol import World, ids, info_of, listing_of, too_late

from m2f_batch.errors import TransientError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work, read_output_state
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.lease import acquire
from m2f_batch.runs.plan import Change, Plan
from m2f_batch.runs.writing import commit as commits
from m2f_batch.runs.writing.commit import staged
from m2f_batch.runs.writing.repair import clean, remove, sweep, write_dirty
from m2f_batch.storage import retries
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import Fenced, StoreUnavailable


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
