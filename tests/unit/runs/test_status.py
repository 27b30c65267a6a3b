"""status and the index: what storage holds is counted as it is, whatever run.json or the index say."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.hand_made import Picture, box_mask
from support.planned_runs import NAMES, file_name, planned_run, put_rows

from m2f_batch.cli import main
from m2f_batch.errors import ImageError
from m2f_batch.runs.assignment import read_assigned
from m2f_batch.runs.directory import DamagedFile, RunDirectory
from m2f_batch.runs.index import IndexEntry, read_index, tally_by, write_index
from m2f_batch.runs.inspect.verify import verify_reports
from m2f_batch.runs.lease import acquire
from m2f_batch.runs.plan import unit_name
from m2f_batch.runs.tally import Tally

SIZE = (6, 5)


def tally_of(run: RunDirectory, index: dict[str, IndexEntry] | None = None) -> Tally:
    """What is counted, by the run's own index unless another is given."""
    return tally_by(run, read_assigned(run), run.committed(), read_index(run) if index is None else index)


def picture(name: str, **more: Any) -> Picture:
    return Picture(f"/p/{name}", SIZE, [(0, 0.5, box_mask(SIZE, 0, 0, 2, 2))] * 2, **more)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """One of three files is there, and one of the third's three units."""
    failed = Picture("/p/b", error=ImageError("decode", "Truncated", "short"))
    waiting = [picture(name, remains=True) for name in "stuvw"]
    run = planned_run(tmp_path / "run", [[picture("a"), failed, picture("c")], [picture("d", remains=True)], waiting])
    run.write_info(run.read_info() | {"images": run.read_info()["images"] | {"ok": 0, "error": 0, "remaining": 9}})
    unit = unit_name(file_name(2), 1, 3)
    run.store.write(run.path(f"_state/parts/{file_name(2)}/{unit}.parquet"), b"rows")
    return run


def said(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["status", run.uri]) == 0
    return capsys.readouterr().out


def test_a_run_that_was_killed(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_info(run.read_info() | {"retries": 1234, "attempts": 3})
    lines = said(run, capsys).splitlines()
    assert lines[0] == f"{run.uri}: not finished; started at 2026-11-20T10:00:00+00:00, attempt 3"
    assert lines[2] == "images  9 listed = 2 ok + 1 error + 6 remaining; 3 skipped, 2 duplicates"
    assert lines[3] == "staged  2 of those that remain are done, and appear when the others of their file are"
    assert lines[4].startswith("rate    0.5 images/s over 9 s, as of ") and lines[4].endswith(" s ago; 4 segments")
    assert lines[5:] == [
        "retries 1,234 requests to storage were made again",
        "failed  1 x decode/Truncated",
        "left    4 images, 8 s at that rate",
    ]


def test_the_same_as_json(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_info(run.read_info() | {"retries": 1234, "attempts": 3})
    lease = acquire(run.store, run.lease_folder, 60, print)
    capsys.readouterr()
    assert main(["status", run.uri, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 <= told.pop("age") < 60
    held = told.pop("lease")
    assert (held["is_free"], held["is_over"], held["seconds"]) == (False, False, 60)
    assert told.pop("model") == {"uri": "/models/m", "license": "mit"}
    assert told == {
        "run": run.uri,
        "run_id": run.read_info()["run_id"],
        "task": "panoptic",
        "finished": False,
        "started_at": "2026-11-20T10:00:00+00:00",
        "finished_at": None,
        "attempts": 3,
        "images": {"listed": 9, "ok": 2, "error": 1, "remaining": 6, "staged": 2, "skipped": 3, "duplicates": 2},
        "segments": 4,
        "errors": {"decode/Truncated": 1},
        "strangers": 0,
        "images_per_second": 0.5,
        "seconds": 9.0,
        "seconds_left": 8.0,
        "deadline_at": None,
        "late_by": None,
        "retries": 1234,
        "forward": None,
    }
    lease.release()
    assert main(["status", run.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lease"]["is_free"]


@pytest.mark.parametrize(
    ("hours", "rate", "text"),
    [
        (3, 0.5, "kept with 3 h 0 min to spare at that rate"),
        (-3, 0.5, "3 h 0 min late at that rate"),
        (3, 4 / (5 * 3600), "2 h 0 min late at that rate"),
        (3, 0.0, "in 3 h 0 min"),
        (-3, 0.0, "over for 3 h 0 min"),
    ],
)
def test_a_deadline(run: RunDirectory, capsys, hours: float, rate: float, text: str) -> None:
    at = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    run.write_info(run.read_info() | {"images_per_second": rate, "deadline_at": at})
    assert said(run, capsys).splitlines()[-1] == f"due     {at} (run.deadline): {text}"
    assert main(["status", run.uri, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["deadline_at"] == at and (told["late_by"] > 0) == ("late" in text or "over" in text)


@pytest.mark.parametrize(
    ("at", "text"),
    [("2026-11-20T10:05:09+00:00", "kept, with 5 min 0 s to spare"), ("2026-11-20T11:00:00+01:00", "missed by 9 s")],
)
def test_a_deadline_of_a_finished_run(tmp_path: Path, capsys, at: str, text: str) -> None:
    run = planned_run(tmp_path / "run", [[picture("a")]])
    run.write_info(run.read_info() | {"deadline_at": at})
    assert said(run, capsys).splitlines()[-1] == f"due     {at} (run.deadline): {text}"


def test_who_holds_the_run(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lease" not in said(run, capsys)
    lease = acquire(run.store, run.lease_folder, 60, print)
    (line,) = [line for line in said(run, capsys).splitlines() if line.startswith("lease")]
    assert line.startswith("lease   held by process ") and line.endswith(" s ago, it lasts 60 s from then")
    file = next(entry.uri for entry in run.store.list(f"{run.lease_folder}/"))
    held = json.loads(run.store.read(file))
    assert f" {held['holder']} since {held['since']}; renewed " in line
    run.store.write(file, json.dumps(held | {"seconds": -1.0}).encode())
    assert "it has expired, and the same command goes on" in said(run, capsys)
    lease.release()
    assert f"lease   free; last held by {held['holder']} from {held['since']} to " in said(run, capsys)
    run.store.write(file, b"half a le")
    assert "lease   held by a process unknown" in said(run, capsys)


def test_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(planned_run(tmp_path / "run", [[picture("a")]]), capsys)
    assert "finished at 2026-11-20T10:00:09+00:00" in text and "1 listed = 1 ok + 0 error + 0 remaining" in text
    assert "staged" not in text and "left " not in text and "rate    0.5 images/s over 9 s; 2 segments" in text


def test_counts_are_of_rows_that_the_manifest_names(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    put_rows(run, 0, [picture(name).row(NAMES) for name in "abcx"])
    put_rows(run, 8, [picture("y").row(NAMES)])
    # of file 0, "b" failed in the manifest's own run: here all three of its images are ok, and x is none of its
    assert "9 listed = 3 ok + 0 error + 6 remaining" in said(run, capsys)


def test_the_index_spares_reading_what_has_not_changed(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    (report,) = verify_reports(run, "panoptic").reports
    entries = {report.file: report.entry()}
    write_index(run, entries)
    assert read_index(run) == entries
    assert json.loads(run.store.read(run.path("_state/index.json")))["files"][report.file]["ok"] == 2
    reads: list[str] = []
    read = RunDirectory.read_annotations

    def counted(self: RunDirectory, uri: str, columns: list[str] | None = None) -> Any:
        reads.append(uri)
        return read(self, uri, columns)

    monkeypatch.setattr(RunDirectory, "read_annotations", counted)
    expected = tally_of(run, {})
    assert (expected.ok, expected.error, expected.segments, expected.reasons) == (2, 1, 4, {"decode/Truncated": 1})
    assert len(reads) == 1 and tally_of(run) == expected and len(reads) == 1
    for wrong in (replace(report.entry(), version="another"), replace(report.entry(), ok=9)):
        assert tally_of(run, {report.file: wrong}) == expected
    assert len(reads) == 3
    put_rows(run, 0, [picture(name).row(NAMES) for name in "abc"])
    assert tally_of(run).ok == 3 and len(reads) == 4
    run.store.write(run.path(f"annotations/{file_name(0)}.parquet"), b"PAR1")
    with pytest.raises(DamagedFile):
        tally_of(run)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": 3}', '{"files": {"a": {"ok": 1}}}', '{"files": {"a": 1}}']
)
def test_an_index_that_nobody_can_read_is_none(run: RunDirectory, text: str) -> None:
    run.store.write(run.path("_state/index.json"), text.encode())
    assert read_index(run) == {}
    assert tally_of(run).ok == 2


def test_an_entry_is_its_counts() -> None:
    entry = IndexEntry("v", 3, 2, 9, {"fetch/Denied": 2})
    assert entry.rows == 5 and entry.tally().images == 5 and not entry.verified
