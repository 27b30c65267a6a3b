"""Rows in the order of their uris, each once; each file read once, and only when it is due."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_made import Picture, box_mask
from support.planned_runs import NAMES, file_name, planned_run, put_rows

from m2f_batch.runs import rows as merged
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.rows import order_of, tables_by_uri

SIZE = (6, 5)


def picture(name: str, **more: Any) -> Picture:
    return Picture(f"/p/{name}", SIZE, [(0, 0.5, box_mask(SIZE, 0, 0, 2, 2))], **more)


def merged_uris(run: RunDirectory, columns: list[str] | None = None) -> list[str]:
    return [uri for table in tables_by_uri(run, columns) for uri in table["uri"].to_pylist()]


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("seed", range(4))
def test_files_that_overlap_at_random(tmp_path: Path, seed: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "ROWS", rows)
    rng = np.random.default_rng(seed)
    names = [f"{n:03d}" + "Aé日𝄞"[n % 4] for n in range(150)]
    files: list[list[Picture]] = [[] for _ in range(7)]
    for name in names:
        files[int(rng.choice(7, p=[0.7, *[0.05] * 6]))].append(picture(name))
    remaining = [p.uri for p in files[3]]
    for item in files[3]:
        item.remains = True
    run = planned_run(tmp_path / "run", files)
    expected = sorted({f"/p/{name}" for name in names} - {*remaining})
    assert merged_uris(run) == merged_uris(run, ["uri"]) == expected
    tables = [*tables_by_uri(run, ["status", "uri", "segments"])]
    assert all(table.column_names == ["status", "uri", "segments"] for table in tables)
    assert [row["segments"][0]["area"] for table in tables for row in table.to_pylist()] == [4] * len(expected)


def test_rows_that_the_manifest_does_not_give_a_file_are_left_out(tmp_path: Path) -> None:
    run = planned_run(tmp_path / "run", [[picture("d"), picture("k")], [picture("e")]])
    put_rows(run, 0, [picture(name).row(NAMES) for name in ("a", "d", "e", "k", "z")])
    put_rows(run, 8, [picture("q").row(NAMES)])
    assert merged_uris(run, ["uri"]) == ["/p/d", "/p/e", "/p/k"]


def test_files_are_read_once_when_they_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [[picture("a"), picture("c"), picture("z")], [picture("b")], [picture("m"), picture("n")]]
    run = planned_run(tmp_path / "run", files)
    reads: list[str] = []
    read = RunDirectory.read_annotations

    def counted(self: RunDirectory, uri: str, columns: list[str] | None = None) -> Any:
        reads.append(uri.rpartition("/")[2].removesuffix(".parquet"))
        return read(self, uri, columns)

    monkeypatch.setattr(RunDirectory, "read_annotations", counted)
    seen = []
    for table in tables_by_uri(run, ["uri"]):
        seen += [(uri, len(reads)) for uri in table["uri"].to_pylist()]
    assert seen == [("/p/a", 1), ("/p/b", 2), ("/p/c", 2), ("/p/m", 3), ("/p/n", 3), ("/p/z", 3)]
    assert reads == [file_name(0), file_name(1), file_name(2)]


def test_an_order_is_of_one_moment(tmp_path: Path) -> None:
    run = planned_run(tmp_path / "run", [[picture("a")], [picture("b", remains=True)], [picture("c")]])
    order = order_of(run)
    put_rows(run, 1, [picture("b").row(NAMES)])
    assert [uri for t in tables_by_uri(run, ["uri"], order) for uri in t["uri"].to_pylist()] == ["/p/a", "/p/c"]
    assert merged_uris(run) == ["/p/a", "/p/b", "/p/c"]


def test_nothing_is_there(tmp_path: Path) -> None:
    assert merged_uris(planned_run(tmp_path / "none", [[picture("a", remains=True)]])) == []
    assert merged_uris(planned_run(tmp_path / "empty", [])) == []
