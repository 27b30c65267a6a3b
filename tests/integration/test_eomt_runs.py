"""EoMT by whole commands: a run of each task, and what follows it. Semantic sees images in windows."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.engines import rows_of
from support.tiny import eomt, eomt_dinov3

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.vision.segmenter import Segmenter

SHAPES = [(96, 150), (64, 64), (40, 170)]
EVERYTHING = {
    "instance": {"score_threshold": 0.0},
    "panoptic": {"score_threshold": 0.0, "overlap_threshold": 0.0},
    "semantic": {},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"eomt": eomt.build(folder / "eomt"), "eomt_dinov3": eomt_dinov3.build(folder / "eomt_dinov3")}


@pytest.mark.parametrize(("kind", "task"), [("eomt", "instance"), ("eomt_dinov3", "panoptic"), ("eomt", "semantic")])
def test_a_run_and_what_follows_it(
    models: dict[str, Path], kind: str, task: str, tmp_path: Path, off_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number, (height, width) in enumerate(SHAPES):
        Image.fromarray(draw_scene(number).image[:height, :width]).save(tmp_path / "images" / f"{number}.png")
    images, run, model = str(tmp_path / "images"), str(tmp_path / "run"), str(models[kind])
    keys = [part for key, value in EVERYTHING[task].items() for part in ("--set", f"postprocess.{key}={value}")]
    command = ["segment", images, run, "--model", model, "--task", task, "--set", "compute.device=cpu", *keys]

    assert main([*command, "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert ("windows of 64x64 of the resized image" in told) == (task == "semantic")
    assert ("padded with black to 64x64" in told) == (task != "semantic")
    assert ("the DINOv3 license binds these weights" in told) == (kind == "eomt_dinov3")
    assert main(command) == 0
    rows = rows_of(run)
    assert all(row["status"] == "ok" and row["segments"] for row in rows)

    assert main(["status", run]) == 0
    assert main(["verify", run]) == 0
    assert main(["export", run, str(tmp_path / "own.json"), "--format", "coco"]) == 0
    segmenter = Segmenter.from_pretrained(model, task=task, device="cpu", **EVERYTHING[task])
    found = segmenter([Image.open(row["uri"]) for row in rows])
    assert [[s.counts for s in each] for each in found] == [[s["counts"] for s in row["segments"]] for row in rows]

    for number, windows in (("1", 1), ("2", 5 if task == "semantic" else 1)):
        assert main(["explain", run, f"{number}.png", str(tmp_path / number)]) == 0
        why = json.loads((tmp_path / number / "explain.json").read_text())
        assert why["comparison"]["same"] and why["definition"]["same_segments"]
        assert len(why["preprocessed"].get("windows_yxhw", [()])) == windows
    capsys.readouterr()
    training = ["finetune", str(tmp_path / "own.json"), str(tmp_path / "tuned"), "--model", model]
    training += ["--set", f"data.train_images={images}", "--set", "train.steps=1", "--set", f"model.task={task}"]
    assert main(training) == 2
    assert "models cannot be trained yet" in capsys.readouterr().err
