"""A kind of store that one file adds: a run over it, from INPUT to the export, here and in the workers of a Ray."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEMO_MODEL, PROJECT

KEY = "a-long-secret-key"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with this package, by links, to which one file was added."""
    here, there = PROJECT / "m2f_batch", tmp_path / "code/m2f_batch"
    for real in ("", "storage", "storage/backends"):
        (there / real).mkdir(parents=True)
        for path in (here / real).iterdir():
            if f"{path.relative_to(here)}" not in ("storage", "storage/backends") and path.name != "__pycache__":
                (there / real / path.name).symlink_to(path)
    shutil.copy(PROJECT / "tests/support/toy_store.py", there / "storage/backends/toy.py")
    return there.parent


def m2f_batch(package: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=package,
        env=environment | {"PYTHONPATH": str(package), "TOY_KEY": KEY} | variables,
    )


@pytest.mark.slow
def test_a_run_from_a_toy_store_to_a_toy_store(package: Path, tmp_path: Path, scenes: Path) -> None:
    box = tmp_path / "files/box"
    (box / "images").mkdir(parents=True)
    for scene in sorted(scenes.glob("*.png"))[:3]:
        shutil.copy(scene, box / "images")
    shutil.copy(scene, box / "images/denied.png")
    folder = str(tmp_path / "files")
    places = ("toy://box/images", "toy://box/labels", "--model", str(DEMO_MODEL), "--task", "panoptic")
    options = ("--set", "input.max_error_fraction=0.5", "--set", "compute.actors=1")

    done = m2f_batch(package, "segment", *places, *options, TOY_FOLDER=folder)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    info = json.loads((box / "labels/run.json").read_text())
    assert (info["images"]["ok"], info["images"]["error"]) == (3, 1)
    assert info["config"]["input"]["uri"] == "toy://box/images"
    stored = b"".join(path.read_bytes() for path in box.joinpath("labels").rglob("*") if path.is_file())
    assert KEY.encode() not in stored

    rows = rows_of(box / "labels/annotations")
    assert [row["status"] for row in rows] == ["error", "ok", "ok", "ok"]
    assert rows[0]["error"]["message"] == "toy://box/images/denied.png: not with the key ***"
    assert all(row["uri"].startswith("toy://box/images/") for row in rows) and any(row["segments"] for row in rows)

    for command in (("status", "toy://box/labels"), ("verify", "toy://box/labels")):
        done = m2f_batch(package, *command, TOY_FOLDER=folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    done = m2f_batch(
        package, "export", "toy://box/labels", "toy://box/coco.json", "--format", "coco", TOY_FOLDER=folder
    )
    assert done.returncode == 0, done.stderr
    exported = json.loads((box / "coco.json").read_text())
    assert len(exported["images"]) == 3
    assert len(exported["annotations"]) == sum(len(row["segments"]) for row in rows)


def rows_of(annotations: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return sorted(pq.read_table(annotations).to_pylist(), key=lambda row: row["uri"])
