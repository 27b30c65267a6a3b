"""What follows a run knows models that are not Mask2Former, by whole commands.

A dry run, the run, its state and proof, exports, the evaluation of its own export, an explanation and the Segmenter.
"""

import json
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from support.engines import rows_of

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.vision.segmenter import Segmenter

KINDS = {
    "maskformer": "panoptic",
    "oneformer": "instance",
    "rf_detr": "instance",
    "mobilevit": "semantic",
    "mobilevitv2": "semantic",
}
SETTINGS = {
    "instance": {"score_threshold": 0.0},
    "panoptic": {"score_threshold": 0.0, "overlap_threshold": 0.0},
    "semantic": {},
}
PLANS = {
    "maskformer": "stretched to multiples of 32",
    "oneformer": "shortest / longest edge",
    "rf_detr": "96x96 (height x width), aspect ratio not kept, resized without antialias",
    "mobilevit": "blue first (as ml-cvnets sees it: all of the image, where transformers cuts its middle out)",
    "mobilevitv2": "red first and all of the image",
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_commands(kind: str, tmp_path: Path, off_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = import_module(f"support.tiny.{kind}").build(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number, (height, width) in enumerate([(96, 150), (150, 96), (40, 170)]):
        Image.fromarray(draw_scene(number).image[:height, :width]).save(tmp_path / "images" / f"{number}.png")
    images, run, task = str(tmp_path / "images"), str(tmp_path / "run"), KINDS[kind]
    command = ["segment", images, run, "--model", str(model), "--task", task]
    command += ["--set", "compute.device=cpu"]
    more = SETTINGS[task]
    command += [part for key, value in more.items() for part in ("--set", f"postprocess.{key}={value}")]

    assert main([*command, "--dry-run"]) == 0
    assert PLANS[kind] in " ".join(capsys.readouterr().out.split())
    assert main(command) == 0
    rows = rows_of(run)
    assert [row["status"] for row in rows] == ["ok"] * 3
    segments = [segment for row in rows for segment in row["segments"]]
    assert len({segment["category"] for segment in segments}) > 1
    if kind == "rf_detr":
        assert len(segments) == 3 * 12, "as many pairs as queries"

    assert main(["status", run]) == 0
    assert main(["verify", run]) == 0
    assert main(["export", run, str(tmp_path / "own.json"), "--format", "coco"]) == 0
    assert main(["export", run, str(tmp_path / "results.json"), "--format", "coco-results"]) == 0
    if task == "instance":
        assert main(["evaluate", run, "--ground-truth", str(tmp_path / "own.json")]) == 0
    training = ["finetune", str(tmp_path / "own.json"), str(tmp_path / "tuned"), "--model", str(model)]
    training += ["--set", f"data.train_images={images}", "--set", "train.steps=1", "--set", f"model.task={task}"]
    assert main(training) == 2
    assert "models cannot be trained yet" in capsys.readouterr().err

    segmenter = Segmenter.from_pretrained(str(model), task=task, device="cpu", **more)
    assert [len(found) for found in segmenter([Image.open(row["uri"]) for row in rows])] == [
        len(row["segments"]) for row in rows
    ]

    assert main(["explain", run, "1.png", str(tmp_path / "why")]) == 0
    why = json.loads((tmp_path / "why" / "explain.json").read_text())
    assert why["comparison"]["same"]
    assert why["run"]["fingerprint"]["same"]
    if task != "semantic":
        assert why["definition"]["same_segments"]
        assert sum(why["definition"]["flipped_pixels"]) <= 3
