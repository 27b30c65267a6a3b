"""Whole commands with models as users bring them: old ones, converted ones, and with settings that a plan warns of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL, PROJECT
from PIL import Image
from support.bare_models import BARE, DOUBT, model_with
from support.conversion_files import pickled_model
from support.engines import config_of, in_process, rows_of

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.records import table_of
from m2f_batch.vision.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("off_ray")

FOLDER = PROJECT / "tests" / "old_checkpoints"
SET = "preprocess.normalize={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"


def test_the_plan_warns_and_the_key_makes_the_rows_those_of_the_whole_processor(
    one_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = model_with(tmp_path / "bare", **BARE)
    command = ["segment", str(one_scene), str(tmp_path / "warned"), "--model", str(bare), "--task", "instance"]
    assert main(command) == 0
    assert f"        warning: {DOUBT}; the key is preprocess.normalize\n" in capsys.readouterr().out
    command[2] = str(tmp_path / "set")
    assert main([*command, "--set", SET]) == 0
    assert "warning" not in capsys.readouterr().out
    assert in_process(config_of(one_scene, tmp_path / "whole", DEMO_MODEL, model={"task": "instance"})) == 0
    warned, found, known = (rows_of(tmp_path / name) for name in ("warned", "set", "whole"))
    assert found == known and found[0]["segments"] and warned != known


def test_segment_with_what_a_trainer_of_version_4_left(one_scene: Path, tmp_path: Path, capsys: Any) -> None:
    """Weights without ``swin.layernorm``, beside pickles that are never read."""
    model = FOLDER / "4.57.6-trainer"
    assert {"optimizer.pt", "training_args.bin"} <= {file.name for file in model.iterdir()}
    command = ["segment", str(one_scene), str(tmp_path / "run"), "--model", str(model), "--task", "semantic"]
    assert main(command) == 0
    (row,) = rows_of(tmp_path / "run")
    assert row["status"] == "ok" and {s["category"] for s in row["segments"]} <= {"cat", "dog", "sky"}
    assert sum(s["area"] for s in row["segments"]) == row["height"] * row["width"]
    assert "warning" not in capsys.readouterr().out


def test_the_plan_of_instance_warns(one_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Case T4: ids of stuff that have outlived their labels."""
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"label_ids_to_fuse": [4, 5, 9]}))
    command = ["segment", str(one_scene), str(tmp_path / "run"), "--model", str(model), "--task", "instance"]
    assert main([*command, "--dry-run"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert line.startswith("        warning: label_ids_to_fuse in its config.json names [9], which are no labels")


def test_segment_of_the_converted_model_gives_the_rows_of_the_demo(tmp_path: Path) -> None:
    """The whole way."""
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    for seed in (3, 4):
        Image.fromarray(draw_scene(seed).image).save(tmp_path / "in" / f"{seed}.png")
    assert main(["convert-checkpoint", str(pickled_model(tmp_path / "old")), str(tmp_path / "new")]) == 0
    run = ["segment", str(tmp_path / "in"), str(tmp_path / "run"), "--model", str(tmp_path / "new")]
    assert main([*run, "--task", "panoptic", "--set", "compute.actors=1"]) == 0
    table = pq.read_table(tmp_path / "run" / "annotations").sort_by("uri")
    images = [path.read_bytes() for path in sorted((tmp_path / "in").iterdir())]
    demo = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic", device="cpu")
    expected = table_of(demo.rows(images)).select(["height", "width", "status", "segments"])
    assert table.select(expected.column_names).to_pylist() == expected.to_pylist()
    assert len(images) == table.num_rows and all(row["segments"] for row in table.to_pylist())
