"""One file each adds a kind of store and a family of models: a run of both, from INPUT to the export, on a Ray."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image
from support.toy_family import TOY, save_toy_model

from m2f_batch.vision.masks.rle import decode_mask

KEY = "a-long-secret-key"
REAL = ("", "storage", "storage/backends", "models", "models/families")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with this package, by links, to which two files were added."""
    here, there = PROJECT / "m2f_batch", tmp_path / "code/m2f_batch"
    for real in REAL:
        (there / real).mkdir(parents=True)
        for path in (here / real).iterdir():
            if f"{path.relative_to(here)}" not in REAL and path.name != "__pycache__":
                (there / real / path.name).symlink_to(path)
    shutil.copy(PROJECT / "tests/support/toy_store.py", there / "storage/backends/toy.py")
    (there / "models/families/toy.py").write_text(TOY)
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


def test_a_run_of_a_toy_model_from_a_toy_store_to_a_toy_store(package: Path, tmp_path: Path) -> None:
    box, half = tmp_path / "files/box", np.zeros((64, 96, 3), np.uint8)
    half[:, 40:] = 255
    (box / "images").mkdir(parents=True)
    for name, pixels in {"denied": half, "half": half, "other": half[:, ::-1], "white": half[:, 40:]}.items():
        Image.fromarray(pixels).save(box / "images" / f"{name}.png")
    folder = str(tmp_path / "files")
    places = ("toy://box/images", "toy://box/labels", "--model", str(save_toy_model(tmp_path / "model")))
    options = ("--set", "input.max_error_fraction=0.5", "--set", "compute.actors=1")

    done = m2f_batch(package, "segment", *places, *options, TOY_FOLDER=folder)
    assert done.returncode == 0, done.stderr
    assert "semantic (inferred from the model), 2 labels" in done.stdout
    assert KEY not in done.stdout + done.stderr
    info = json.loads((box / "labels/run.json").read_text())
    assert (info["images"]["ok"], info["images"]["error"]) == (3, 1)
    assert info["config"]["input"]["uri"] == "toy://box/images"
    stored = b"".join(path.read_bytes() for path in box.joinpath("labels").rglob("*") if path.is_file())
    assert KEY.encode() not in stored

    rows = rows_of(box / "labels/annotations")
    assert [row["uri"] for row in rows] == [
        f"toy://box/images/{name}.png" for name in ("denied", "half", "other", "white")
    ]
    assert [row["status"] for row in rows] == ["error", "ok", "ok", "ok"]
    assert rows[0]["error"]["message"] == "toy://box/images/denied.png: not with the key ***"
    for row in rows[1:]:
        pixels = np.asarray(Image.open(box / "images" / row["uri"].rpartition("/")[2]))[:, :, 0]
        found = {each["category"]: decode_mask(each["counts"], pixels.shape) for each in row["segments"]}
        assert found.keys() == {"dark", "bright"} - ({"dark"} if pixels.all() else set())
        assert np.array_equal(found["bright"], pixels == 255)
        assert np.array_equal(found.get("dark", ~found["bright"]), ~found["bright"])

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
