"""``preprocess.window`` from the command line to the rows, and what follows a run whose images were seen in windows."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import rows_of

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.vision.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("off_ray")
SIZE, WINDOW = {"shortest_edge": 96, "longest_edge": 400}, {"size": 64, "stride": 48}
SETTINGS = ["--set", f"preprocess.size={json.dumps(SIZE)}", "--set", f"preprocess.window={json.dumps(WINDOW)}"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images, of which one is four times as wide as high."""
    (tmp_path / "images").mkdir()
    for seed, size in enumerate(((60, 240), (100, 120))):
        Image.fromarray(draw_scene(seed).image[: size[0], : size[1]]).save(tmp_path / "images" / f"{seed}.png")
    return tmp_path / "images"


def segment(images: Path, run: Path, model: Path, *more: str, task: str = "semantic") -> int:
    return main(["segment", str(images), str(run), "--model", str(model), "--task", task, *more])


def test_a_run_in_windows(images, tmp_path, capsys):
    run = tmp_path / "run"
    assert segment(images, run, DEMO_MODEL, *SETTINGS) == 0
    said = capsys.readouterr().out
    assert (
        "windows of 64x64 of the resized image, stride 48 (preprocess.window); what the model gives is averaged" in said
    )
    info = json.loads((run / "run.json").read_text())
    assert info["config"]["preprocess"]["window"] == WINDOW
    rows = rows_of(run)
    assert [row["status"] for row in rows] == ["ok", "ok"] and all(len(row["segments"]) > 1 for row in rows)
    segmenter = Segmenter.from_pretrained(str(DEMO_MODEL), task="semantic", size=SIZE, window=WINDOW)
    again = segmenter([np.asarray(Image.open(row["uri"])) for row in rows])
    assert [[each["counts"] for each in row["segments"]] for row in rows] == [
        [s.counts for s in each] for each in again
    ]
    # another placement is another run
    other = ["--set", f"preprocess.size={json.dumps(SIZE)}", "--set", "preprocess.window={size: 64, stride: 32}"]
    assert segment(images, run, DEMO_MODEL, *other) == 2
    assert "windows" in capsys.readouterr().err
    assert main(["explain", str(run), rows[0]["uri"], str(tmp_path / "why")]) == 0
    said = capsys.readouterr().out
    assert "same as the run's, in every column" in said and "windows of 64x64" in said
    tree = json.loads((tmp_path / "why" / "explain.json").read_text())
    assert len(tree["preprocessed"]["windows_yxhw"]) == 2 * 8
    assert tree["definition"]["same_segments"] and sum(tree["definition"]["flipped_pixels"]) <= 2
    won = {item["category_id"]: item["pixels"] for item in tree["classes"] if item["pixels"]}
    assert won.keys() == {each["category_id"] for each in rows[0]["segments"]}


def test_a_whole_run_says_nothing_of_windows(images, tmp_path, capsys):
    assert segment(images, tmp_path / "run", DEMO_MODEL) == 0
    assert "window" not in capsys.readouterr().out
    assert "window" not in (tmp_path / "run" / "run.json").read_text()


def test_windows_that_cannot_be(images, tmp_path, capsys):
    assert segment(images, tmp_path / "run", DEMO_MODEL, *SETTINGS, task="panoptic") == 2
    said = capsys.readouterr().err
    assert "preprocess.window: {'size': 64, 'stride': 48} does not apply to task panoptic" in said
    assert segment(images, tmp_path / "run", DEMO_MODEL, "--set", "preprocess.window={size: 64, stride: 65}") == 2
    assert "preprocess.window.stride: 65 is not allowed with size 64; allowed: 16 to 64" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_classes_of_pixels_are_explained(images, tmp_path, capsys):
    with torch.random.fork_rng():
        import_module("support.tiny.segformer").build(tmp_path / "model")
    run = tmp_path / "run"
    assert segment(images, run, tmp_path / "model") == 0
    (row, _) = rows_of(run)
    capsys.readouterr()
    assert main(["explain", str(run), row["uri"], str(tmp_path / "why")]) == 0
    assert "same as the run's, in every column" in capsys.readouterr().out
    tree = json.loads((tmp_path / "why" / "explain.json").read_text())
    assert tree["queries"] is None and tree["definition"]["same_segments"]
    assert sum(tree["definition"]["flipped_pixels"]) <= 2
    assert sum(item["pixels"] for item in tree["classes"]) == row["height"] * row["width"]
    assert {item.name for item in (tmp_path / "why").iterdir()} >= {"overlay.png", "canvas.png", "explain.json"}
