"""verify of runs whose manifest names files: each fault is told, in any order and number of processes."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.hand_made import Picture, box_mask
from support.planned_runs import NAMES, file_name, id_of, planned_run, put_rows

from m2f_batch.cli import main
from m2f_batch.errors import ImageError, RunError
from m2f_batch.processes import in_processes
from m2f_batch.records import Row
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.inspect import verify as verify_module
from m2f_batch.runs.inspect.verify import MOST_LINES, check_file, verify, verify_reports
from m2f_batch.runs.plan import unit_name

SIZE = (12, 16)
MASK = box_mask(SIZE, 1, 2, 3, 4)


def picture(name: str, **more: Any) -> Picture:
    return Picture(f"/p/{name}.jpg", SIZE, [(0, 0.9, MASK)], **more)


def files() -> list[list[Picture]]:
    """A first file of a..z, and two of what came later, one of them in between."""
    return [
        [picture("a"), picture("k"), Picture("/p/z.jpg", error=ImageError("decode", "Truncated", "short"))],
        [picture("b"), picture("c")],
        [picture("m"), picture("x")],
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return planned_run(tmp_path / "run", files())


def path(run: RunDirectory, number: int) -> str:
    return run.path(f"annotations/{file_name(number)}.parquet")


def rows(names: Iterable[str]) -> list[Row]:
    return [picture(name).row(NAMES) for name in names]


def test_a_good_run_verifies_in_any_order(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    def backwards(act: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return [act(item) for item in reversed([*items])]

    assert verify(run, "panoptic") == verify(run, "panoptic", each=backwards) == []
    reports = verify_reports(run, "panoptic", each=backwards).reports
    assert [(r.file, r.rows, r.tally.ok, r.tally.error, r.tally.segments) for r in reports] == [
        *((file_name(2), 2, 2, 0, 2), (file_name(1), 2, 2, 0, 2), (file_name(0), 3, 2, 1, 2))
    ]
    assert reports[-1].tally.reasons == {"decode/Truncated": 1}
    assert {r.file: r.version for r in reports} == {name: entry.version for name, entry in run.committed().items()}
    assert main(["verify", run.uri]) == 0
    assert capsys.readouterr().out == (
        f"{run.uri}: verified; finished; 7 listed = 6 ok + 1 error + 0 remaining; 6 segments\n"
    )


FAULTS: dict[str, tuple[Callable[[RunDirectory], None], list[str]]] = {
    "missing": (
        lambda run: put_rows(run, 1, rows("b")),
        [
            f"1 images of this file have no row, e.g. that of image_id {id_of('/p/c.jpg')}",
            "1 listed images have no row, e.g. /p/c.jpg; run.json says 0 remain",
            "_SUCCESS is there although 1 images remain, e.g. /p/c.jpg",
        ],
    ),
    "no file": (
        lambda run: run.store.delete([path(run, 1)]),
        [
            "2 listed images have no row, e.g. /p/b.jpg; run.json says 0 remain",
            "_SUCCESS is there although 2 images remain, e.g. /p/b.jpg",
        ],
    ),
    "twice": (
        lambda run: put_rows(run, 1, rows("bcc")),
        [f"1 image ids have more than one row, e.g. {id_of('/p/c.jpg')}"],
    ),
    "of another file": (
        lambda run: put_rows(run, 1, rows("bck")),
        ["1 rows are of images that the manifest does not give this file, e.g. /p/k.jpg"],
    ),
    "not listed": (
        lambda run: put_rows(run, 1, rows("bcy")),
        ["1 rows are of images that the manifest does not give this file, e.g. /p/y.jpg"],
    ),
    "a file too many": (
        lambda run: put_rows(run, 7, rows("bc")),
        ["2 rows are of images that the manifest gives another file, or does not name, e.g. /p/b.jpg"],
    ),
    "swapped for another": (
        lambda run: put_rows(run, 1, rows("by")),
        [
            f"1 images of this file have no row, e.g. that of image_id {id_of('/p/c.jpg')}",
            "1 rows are of images that the manifest does not give this file, e.g. /p/y.jpg",
        ],
    ),
    "order": (
        lambda run: put_rows(run, 1, rows("cb")),
        ["its rows are not sorted by uri: /p/b.jpg stands after /p/c.jpg"],
    ),
    "damaged": (
        lambda run: run.store.write(path(run, 1), b"PAR1"),
        ["cannot be read as Parquet", "2 listed images have no row, e.g. /p/b.jpg; run.json says 0 remain"],
    ),
    "schema": (
        lambda run: run.store.write(path(run, 1), parquet_bytes(pa.table({"uri": ["/p/b.jpg"]}))),
        ["its schema is not the frozen one", "2 listed images have no row, e.g. /p/b.jpg; run.json says 0 remain"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(run: RunDirectory, fault: str) -> None:
    act, told = FAULTS[fault]
    act(run)
    problems = verify(run, "panoptic")
    for text in told:
        assert len([problem for problem in problems if text in problem]) == 1, (text, problems)
    others = [problem for problem in problems if not any(text in problem for text in told)]
    assert all("run.json" in problem or "_SUCCESS" in problem for problem in others)


def test_a_file_without_rows_that_the_manifest_does_not_name_is_harmless(run: RunDirectory) -> None:
    put_rows(run, 7, [])
    assert verify(run, "panoptic") == []


def test_rows_that_are_about_to_be_dropped(run: RunDirectory) -> None:
    put_rows(run, 1, rows("bcy"))
    put_rows(run, 7, rows("v"))
    run.write_info(run.read_info() | {"finished_at": None})
    for plan, count in (("another", 2), ("p1", 0)):
        dirty = {"plan": plan, "files": [file_name(1), file_name(7)]}
        run.write("_state/dirty.json", json.dumps(dirty).encode())
        assert len(verify(run, "panoptic")) == count


def test_the_manifest_itself(run: RunDirectory) -> None:
    manifest = run.read_manifest()
    run.write_manifest(manifest.take(pa.array([0, 2, 1, 3, 4, 5, 6])))
    assert verify(run, "panoptic") == ["the manifest is not in the order of its uris, or has one twice"]
    run.write_manifest(manifest.take(pa.array([0, 0, 1, 2, 3, 4, 5, 6])))
    assert verify(run, "panoptic")[:2] == [
        f"the manifest has 1 image ids more than once, e.g. {id_of('/p/a.jpg')}",
        "the manifest is not in the order of its uris, or has one twice",
    ]


def test_staged_units_are_counted_and_are_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = [picture(name, remains=True) for name in "defgh"]
    run = planned_run(tmp_path / "run", [[picture("a")], waiting])
    for part in (0, 2):  # units of 2, 2 and 1
        name = unit_name(file_name(1), part, 3)
        run.store.write(run.path(f"_state/parts/{file_name(1)}/{name}.parquet"), b"rows")
    left_over = unit_name(file_name(0), 0, 1)
    run.store.write(run.path(f"_state/parts/{file_name(0)}/{left_over}.parquet"), b"rows")
    assert main(["verify", run.uri]) == 0
    assert capsys.readouterr().out == (
        f"{run.uri}: verified; not finished; 6 listed = 1 ok + 0 error + 5 remaining; 1 segments; "
        "3 of those that remain are staged\n"
    )


def test_known_files_are_not_read_unless_they_changed(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {report.file: report.entry() for report in verify_reports(run, "panoptic").reports}
    read: list[str] = []

    def counted(*arguments: Any) -> Any:
        read.append(arguments[1])
        return check_file(*arguments)

    monkeypatch.setattr(verify_module, "check_file", counted)
    found = verify_reports(run, "panoptic", known=known)
    assert (found.problems, read, len(found.reports)) == ([], [], 3)
    stale = {
        file_name(0): replace(known[file_name(0)], version="another"),
        file_name(1): replace(known[file_name(1)], verified=False),
        file_name(2): replace(known[file_name(2)], ok=1),
        file_name(9): known[file_name(2)],  # is not there
    }
    assert verify(run, "panoptic", known=stale) == [] and len(read) == 3
    put_rows(run, 1, rows("b"))
    assert len(verify(run, "panoptic", known=known)) == 4 and read[3:] == [file_name(1)]
    run.store.delete([path(run, 1)])
    assert "2 listed images have no row" in verify(run, "panoptic", known=known)[0]


def test_a_file_with_problems_is_not_known_as_verified(run: RunDirectory) -> None:
    put_rows(run, 1, rows("bcy"))
    verified = {report.file: report.entry().verified for report in verify_reports(run, "panoptic").reports}
    assert verified == {file_name(0): True, file_name(1): False, file_name(2): True}


def test_the_lines_of_one_file_are_capped(tmp_path: Path) -> None:
    many = [picture(f"{number:03d}") for number in range(100)]
    run = planned_run(tmp_path / "run", [many])
    broken = [row | {"height": 13} for row in (p.row(NAMES) for p in many)]
    put_rows(run, 0, broken)
    ids = np.array([id_of(p.uri) for p in many])
    report = check_file(run.uri, file_name(0), ids, "panoptic", dict(enumerate(NAMES)))
    assert len(report.problems) == MOST_LINES + 1 and report.rows == 100
    assert report.problems[-1] == f"{path(run, 0)}: {100 - MOST_LINES} further problems of its rows"


def test_in_processes(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put_rows(run, 1, rows("by"))
    serial = verify(run, "panoptic")
    monkeypatch.setattr(verify_module, "SERIAL_BYTES", 0)
    monkeypatch.setattr(verify_module.os, "cpu_count", lambda: 2)
    assert main(["verify", run.uri]) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == serial


def test_what_a_process_raises_arrives_and_a_dead_one_ends_the_run() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        [*in_processes(int, ["1", "x", "3"], workers=1)]
    with pytest.raises(RunError, match="died"):
        [*in_processes(_die, [1, 2, 3], workers=1)]


def _die(status: int) -> None:
    import os

    os._exit(status)
