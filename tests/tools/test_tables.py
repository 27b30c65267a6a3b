"""The recipes of docs/guides/tables.md and the queries of all pages, run as they stand over rows of our own writer."""

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import BIN, PROJECT

duckdb = pytest.importorskip("duckdb", reason="make test-tools")
WRITE = """
import sys
from pathlib import Path
import numpy as np
from support.hand_made import Picture, box_mask, make_run
size = (12, 16)
found = [(0, 0.9, box_mask(size, 1, 1, 5, 5)), (1, 0.8, box_mask(size, 2, 2, 3, 3))]
files = [[Picture("/p/a.jpg", size, found), Picture("/p/b.jpg", size, found[:1])], [Picture("/p/c.jpg", size, [])]]
make_run(Path(sys.argv[1]) / "labels", files, task="instance")
"""


TABLES = PROJECT / "docs" / "guides" / "tables.md"
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks(language: str, page: Path = TABLES) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows of a run at labels/ in the current folder: three images in two files."""
    import pyarrow.dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "tests"))
    subprocess.run([BIN / "python", "-c", WRITE, str(tmp_path)], check=True)
    shutil.copytree("labels", "demo-labels")  # which the README asks
    return in_order(pyarrow.dataset.dataset("labels/annotations").to_table().to_pylist())


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(json.loads(json.dumps(rows)), key=lambda row: row["uri"])


def test_duckdb_counts_segments(labels: list[dict[str, Any]]) -> None:
    (query,) = blocks("sql")
    found = duckdb.sql(query).fetchall()
    names = [segment["category"] for row in labels for segment in row["segments"]]
    assert len(names) == 3
    assert {name: count for name, count, _ in found} == {name: names.count(name) for name in names}


@pytest.mark.parametrize("page", filter(partial(blocks, "sql"), PAGES), ids=lambda page: str(page.relative_to(PROJECT)))
def test_duckdb_takes_the_queries_of_each_page(page: Path, labels: list[dict[str, Any]]) -> None:
    for query in blocks("sql", page):
        assert duckdb.sql(query).columns, query
        duckdb.sql(query).fetchall()


def test_tables_hold_the_same_rows_after_one_run_and_after_two(labels: list[dict[str, Any]]) -> None:
    import deltalake
    import lance
    from pyiceberg.catalog import load_catalog

    (recipe,) = blocks("python")
    Path("warehouse").mkdir()
    for _ in range(2):
        exec(recipe, {})
        catalog = load_catalog("local", type="sql", uri="sqlite:///catalog.db", warehouse="warehouse")
        tables = {
            "delta": deltalake.DeltaTable("delta").to_pyarrow_table(),
            "lance": lance.dataset("labels.lance").to_table(),
            "iceberg": catalog.load_table("vision.labels").scan().to_arrow(),
        }
        for name, table in tables.items():
            assert in_order(table.to_pylist()) == labels, name
