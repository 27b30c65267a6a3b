"""The notebook in docs, run cell by cell as a reader would: label, look, ask, train, compare.

Three runs on one Ray and 40 steps of training take some 70 s of CPU. What can be seen without running it is in
tests/unit/api/test_notebook_cells.py.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

FOLDER = PROJECT / "docs" / "notebooks"
FILE = FOLDER / "first-labels.ipynb"


def outputs(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """The kinds of what stands below each cell: figures differ between kinds of machines in their last digits."""
    cells = [cell.get("outputs", []) for cell in notebook["cells"]]
    return [[sorted(each.get("data", {"stream": 1})) for each in cell] for cell in cells]


def test_the_notebook_runs_and_shows_what_it_gives(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    spec = importlib.util.spec_from_file_location("run_notebook", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # the first cell sets it for good
    written, notebook = json.loads(FILE.read_text()), json.loads(FILE.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    runner.run(notebook, names)
    assert names["outcome"].totals.images.ok == 16
    assert "".join(notebook["cells"][8]["outputs"][0]["data"]["text/plain"]) == "True", "the Segmenter gives the run's"
    before, after = (names[name].metrics["PQ"] for name in ("before", "after"))
    assert after > before + 0.3, (before, after)
    assert outputs(notebook) == outputs(written), "python docs/notebooks/run.py docs/notebooks/first-labels.ipynb"
