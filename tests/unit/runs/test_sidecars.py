"""Sidecars beside the rows: written, killed at every point, cleaned, merged, swept, verified and read."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest
from support.memory_store import Killed, MemoryStore
from support.protocol import World, rows_of_unit, too_late

from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.runs import plan as plans
from m2f_batch.runs.directory import parquet_bytes
from m2f_batch.runs.inspect.verify import check_file
from m2f_batch.runs.plan import unit_name
from m2f_batch.runs.reader import Run
from m2f_batch.runs.writing.commit import commit, part_path, staged
from m2f_batch.runs.writing.repair import join_whole, remove, sweep
from m2f_batch.runs.writing.sidecars import staged_sidecar_path, with_names, write_sidecar
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Fenced

IMAGES = {f"/in/{number:02d}.jpg": "v1" for number in range(10)}
# of files of 4, the first loses a row, and the others keep one row each and are merged
NIGHT = {uri: "v1" for uri in IMAGES if uri[-6:-4] in ("00", "01", "02", "06", "09")} | {"/in/07.jpg": "v2"}


def finished(images: dict[str, str] = IMAGES, *, unit: int = 2) -> World:
    world = World(file=4, unit=unit, with_boxes=True)
    world.do(world.take(images))
    return world


def content(world: World) -> list[object]:
    """What readers see, whatever the names of the files are, which are new with every plan."""
    assert world.boxes() == world.wanted_boxes()
    tables = [world.plain.read_annotations(uri) for uri in world.plain.annotation_files()]
    boxes = [world.plain.read_annotations(world.plain.path(f"boxes/{name}")) for name in sorted(world.boxes())]
    return sorted(map(repr, [row for table in [*tables, *boxes] for row in table.to_pylist()]))


def left_over(world: World) -> list[str]:
    return [
        uri for uri in world.store.objects if "/parts/" in uri or ("/sidecars/" in uri and not uri.endswith("/used"))
    ]


@pytest.mark.parametrize("unit", [2, 4])
@pytest.mark.parametrize("images", [IMAGES, NIGHT])
def test_a_run_that_was_killed_at_any_write_is_that_of_one_that_was_not(
    unit: int, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second night drops rows of files, and merges small files."""
    monkeypatch.setattr(plans, "SMALL_FILES", 0)
    wanted = content(finished(images, unit=unit))
    for requests in range(200):
        world = finished(unit=unit) if images is NIGHT else World(file=4, unit=unit, with_boxes=True)
        held, left = world.take(images), iter(range(requests))
        assert (len(held.work.change.dirty), len(held.work.change.sources)) == ((3, 2) if images is NIGHT else (0, 0))

        def before_write(left: "iter[int]" = left) -> None:
            if next(left, None) is None:
                raise Killed

        world.store.before_write = before_write
        try:
            world.do(held)
        except Killed:
            world.store.before_write = lambda: None
            for file, rows in world.wanted_boxes().items():
                kept = {row for row in rows if images.items() >= dict([row.split()]).items()}
                assert set(world.boxes()[file]) >= kept, "no row that stays is seen without its sidecar"
            world.do(world.take(images))
        else:
            assert requests > 10 and content(world) == wanted
            return
        assert content(world) == wanted and left_over(world) == []
    pytest.fail("it never came to its end")


def test_a_run_without_sidecars_has_no_file_of_theirs() -> None:
    world = World()
    world.do(world.take(IMAGES))
    assert {uri.removeprefix("m/run/").split("/")[0] for uri in world.store.objects} == {
        "_state",
        "annotations",
        "run.json",
    }
    assert not any("sidecars" in uri for uri in world.store.objects)


def test_rows_that_are_there_keep_their_sidecar() -> None:
    world = World(file=2, unit=2, with_boxes=True)
    held = world.take(IMAGES)
    begin(held.run, held.work)
    (unit, other, *_) = held.units
    world.commit(held.run, unit)
    before = dict(world.store.objects)
    later = {"boxes": pa.table({"image_id": pa.array([1], pa.int64()), "box": ["later"]})}
    assert commit(held.run, unit.name, rows_of_unit(unit), later).equals(rows_of_unit(unit))
    assert world.store.objects == before
    # one that a killed process left is replaced by that of the rows that are written
    write_sidecar(held.run, "boxes", f"boxes/{other.name}.parquet", later["boxes"], f"annotations/{other.name}.parquet")
    assert world.boxes()[f"{other.name}.parquet"] == ["later"]
    world.commit(held.run, other)
    assert world.boxes() == world.wanted_boxes()


def test_a_sidecar_that_another_worker_replaces_meanwhile_is_not_taken_for_ours() -> None:
    """That worker dies before it writes its rows, and ours would stand beside its table."""
    world = World(file=2, unit=2, with_boxes=True)
    held = world.take(IMAGES)
    begin(held.run, held.work)
    (unit, *_) = held.units
    path, marker = f"boxes/{unit.name}.parquet", f"annotations/{unit.name}.parquet"
    theirs = pa.table({"image_id": pa.array([1], pa.int64()), "box": ["theirs"]})
    write_sidecar(held.run, "boxes", path, theirs, marker)
    replaced: list[str] = []

    def replace_before(uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        if not replaced:
            replaced.append(uri)
            world.store.write(uri, parquet_bytes(theirs))
        return MemoryStore.replace(world.store, uri, data, version, staging=staging)

    world.store.replace = replace_before  # type: ignore[method-assign]
    world.commit(held.run, unit)
    assert replaced == [held.run.path(path)]
    assert world.boxes() == world.wanted_boxes() and len(world.boxes()) == 1


def test_a_sidecar_that_was_replaced_together_with_its_rows_stays() -> None:
    world = World(file=2, unit=2, with_boxes=True)
    held = world.take(IMAGES)
    begin(held.run, held.work)
    (unit, *_) = held.units
    path, marker = f"boxes/{unit.name}.parquet", f"annotations/{unit.name}.parquet"
    theirs = pa.table({"image_id": pa.array([1], pa.int64()), "box": ["theirs"]})
    write_sidecar(held.run, "boxes", path, theirs, marker)

    def replace_before(uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        world.store.write(uri, parquet_bytes(theirs))
        world.store.write(held.run.path(marker), parquet_bytes(with_names(rows_of_unit(unit), ["boxes"])))
        return MemoryStore.replace(world.store, uri, data, version, staging=staging)

    world.store.replace = replace_before  # type: ignore[method-assign]
    world.commit(held.run, unit)
    assert world.boxes() == {f"{unit.name}.parquet": ["theirs"]}


@pytest.mark.parametrize("is_named", [False, True])
def test_a_late_sidecar_of_a_file_that_no_plan_names_is_taken_back(is_named: bool) -> None:
    """Its writer was stopped before the write, and another run has replaced the plan since."""
    world = World(file=2, unit=2, with_boxes=True)
    old = world.take(IMAGES)
    begin(old.run, old.work)
    (unit, *_) = old.units
    new = world.take(IMAGES if is_named else dict.fromkeys(IMAGES, "v2"))
    begin(new.run, new.work)
    assert (unit.name in new.work.plan.names()) == is_named
    with too_late(), pytest.raises(Fenced):
        world.commit(old.run, unit)
    assert [*world.boxes()] == ([f"{unit.name}.parquet"] if is_named else [])
    assert world.rows() == []


def test_a_file_that_no_plan_names_is_not_joined() -> None:
    """A late worker of an old plan has staged all its units, and their sidecars are swept: see ``sweep``."""
    world = World(file=4, unit=2, with_boxes=True)
    old = world.take(IMAGES)
    begin(old.run, old.work)
    new = world.take(NIGHT)
    begin(new.run, new.work)
    file = old.work.plan.names()[0]
    for part in range(2):
        unit = replace([*old.units][part], name=unit_name(file, part, 2))
        world.store.write(world.plain.path(part_path(file, unit.name)), b"rows")
    assert join_whole(new.run, new.work.plan, (), staged(new.run)) == []
    sweep(new.run, new.work.plan, new.run.committed())
    assert left_over(world) == []


def test_what_is_overwritten_leaves_no_sidecar() -> None:
    world = finished()
    held = world.take(NIGHT)
    unit = next(iter(held.units))
    world.store.write(world.plain.path(staged_sidecar_path("boxes", unit.name[:32], unit.name)), b"x")
    remove(held.run)
    assert {uri.removeprefix("m/run/") for uri in world.store.objects if "lease" not in uri} == {
        "_state/sidecars/boxes/used"
    }
    assert world.boxes() == {}


@pytest.mark.parametrize("name", ["annotations", "_state", "a/b", "", "A", "run.json"])
def test_names_that_would_be_in_the_way(name: str) -> None:
    world = World()
    with pytest.raises(ValueError, match="is no name of a sidecar"):
        write_sidecar(world.plain, name, "x", pa.table({}), "y")


def test_sidecars_are_read_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    world = finished()
    run = Run(world.plain, None)  # type: ignore[arg-type]  # run.json says nothing of sidecars
    tables = [table["box"].to_pylist() for table in run.sidecar("boxes")]
    assert [box for table in tables for box in table] == [
        f"{row['uri']} {row['version']}"
        for table in run.rows()
        for row in table.to_pylist()
        for _ in range(row["image_id"] % 3)
    ]
    assert len(tables) == 3 and [*run.sidecar("masks")] == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda store, uri: store.delete([uri]), "is missing, and was committed with the rows of"),
        (lambda store, uri: store.write(uri, b"PAR1"), "cannot be read as Parquet"),
    ],
)
def test_verify_misses_a_sidecar(tmp_path, damage: Callable[[MemoryStore, str], None], problem: str) -> None:
    world = finished()
    run = replace(world.plain, uri=str(tmp_path / "run"), store=open_store(str(tmp_path)))
    for uri, (data, _) in world.store.objects.items():
        run.store.write(uri.replace("m/run", run.uri), data)
    (file, *_) = run.committed()

    def problems() -> list[str]:
        wanted = run.read_annotations(run.path(f"annotations/{file}.parquet"))["image_id"].to_numpy()
        return check_file(run.uri, file, wanted, "instance", {}).problems

    assert problems() == []
    damage(run.store, run.path(f"boxes/{file}.parquet"))
    (line,) = problems()
    assert line.startswith(run.path(f"boxes/{file}.parquet")) and problem in line
