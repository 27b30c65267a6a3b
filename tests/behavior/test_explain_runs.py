"""``m2f-batch explain`` of a run over drawn scenes: the run's own row, why it is what it is, and when it is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of, in_process, rows_of

import m2f_batch.explain.rerun as rerun
from m2f_batch.cli import main

TASKS = ("instance", "panoptic", "semantic")
ALL = {"explain.json", "decoded.png", "canvas.png", "queries.png", "overlay.png"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, scenes) -> dict[str, Path]:
    """A run of each task over the same scenes."""
    folder = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        config = config_of(scenes, folder / task, DEMO_MODEL, model={"task": task}, preprocess={"size": SIZE[task]})
        assert in_process(config) == 0
    return {task: folder / task for task in TASKS}


# with and without padding
SIZE = {
    "instance": "checkpoint",
    "panoptic": {"shortest_edge": 100, "longest_edge": 200},
    "semantic": {"shortest_edge": 120, "longest_edge": 200},
}


def explained(dest: Path) -> dict:
    return json.loads((dest / "explain.json").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_the_row_again_and_why(task, runs, scenes, tmp_path, capsys):
    rows = {row["uri"]: row for row in rows_of(runs[task])}
    for name in ("scene 00.png", "scene 05.png", "more/scene 10.png"):
        row = rows[str(scenes / name)]
        assert main(["explain", str(runs[task]), name, str(tmp_path / name)]) == 0
        tree = explained(tmp_path / name)
        assert tree["stored_row"] == row and tree["comparison"]["same"] and tree["error"] is None
        assert tree["run"]["fingerprint"]["same"] and tree["version"]["changed"] is False
        # what is kept is what is found, by two independent ways
        assert tree["definition"]["same_segments"]
        assert sum(tree["definition"]["flipped_pixels"]) <= 3
        assert max(map(abs, tree["definition"]["score_differences"])) <= 1e-5
        ids = {segment["id"] for segment in row["segments"]}
        kept = [query for query in tree["queries"] if query["reason"] == "kept"]
        assert {number for query in kept for number in query["segments"]} == ids
        names = {segment["id"]: segment["category"] for segment in row["segments"]}
        assert all(query["category"] == names[number] for query in kept for number in query["segments"])
        dropped = [query for query in tree["queries"] if query["reason"] != "kept"]
        assert dropped and all(query["detail"] and not query["segments"] for query in dropped)
        assert {path.name for path in (tmp_path / name).iterdir()} == ALL
        assert np.array_equal(np.asarray(Image.open(tmp_path / name / "decoded.png")), Image.open(scenes / name))
        canvas_hw = Image.open(tmp_path / name / "canvas.png").size[::-1]
        assert list(canvas_hw) == tree["preprocessed"]["canvas_hw"]
        said = capsys.readouterr().out.splitlines()
        assert 10 <= len(said) <= 24 and "row     the same as the run's, in every column" in said


def test_the_numbers_of_the_way(runs, scenes, tmp_path):
    main(["explain", str(runs["panoptic"]), str(scenes / "scene 00.png"), str(tmp_path / "x")])
    tree, pixels = explained(tmp_path / "x"), np.asarray(Image.open(scenes / "scene 00.png"))
    red = tree["decoded"]["channels"]["R"]
    assert (red["min"], red["max"]) == (pixels[..., 0].min(), pixels[..., 0].max())
    assert red["mean"] == pytest.approx(pixels[..., 0].mean()) and red["std"] == pytest.approx(pixels[..., 0].std())
    assert tree["decoded"]["size_hw"] == list(pixels.shape[:2])
    canvas_hw, content_hw = tree["preprocessed"]["canvas_hw"], tree["preprocessed"]["content_hw"]
    assert min(content_hw) == 100 and all(length % 32 == 0 for length in canvas_hw) and canvas_hw != content_hw
    queries, classes = tree["logits"]["class"]["shape"]
    assert tree["logits"]["mask"]["shape"][0] == queries == len(tree["queries"]) and classes == 7
    assert set(tree["seconds"]) >= {"fetch", "decode", "resize", "load model", "forward", "postprocess"}


def test_an_image_that_failed(runs, scenes, tmp_path, capsys):
    assert main(["explain", str(runs["panoptic"]), str(scenes / "broken.jpg"), str(tmp_path / "x")]) == 0
    tree = explained(tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["explain.json"]
    assert (tree["error"]["stage"], tree["error"]["type"]) == ("decode", tree["stored_row"]["error"]["type"])
    assert "Traceback" in tree["error"]["cause"] and tree["header"]["bytes"] == 12
    said = capsys.readouterr().out
    assert f"failed  decode/{tree['error']['type']}: " in said and "Traceback" not in said


@pytest.fixture
def own(tmp_path, scenes) -> tuple[Path, Path, Path]:
    """Input, model and run of two scenes, to be changed afterwards."""
    images, model, output = tmp_path / "images", tmp_path / "model", tmp_path / "run"
    images.mkdir()
    for name in ("scene 00.png", "scene 01.png"):
        shutil.copy(scenes / name, images)
    shutil.copytree(DEMO_MODEL, model)
    assert in_process(config_of(images, output, model)) == 0
    return images, model, output


def test_an_image_that_has_changed(own, tmp_path, capsys):
    images, _, output = own
    pixels = np.asarray(Image.open(images / "scene 00.png")).copy()
    pixels[:, : pixels.shape[1] // 2] = 128
    Image.fromarray(pixels).save(images / "scene 00.png")
    assert main(["explain", str(output), "scene 00.png", str(tmp_path / "x")]) == 1
    tree = explained(tmp_path / "x")
    assert tree["version"]["changed"] and tree["version"]["now"] != tree["version"]["listed"]
    segments = tree["comparison"]["segments"]
    assert sum(pair["flipped_pixels"] for pair in segments["matched"]) > 0 or segments["only_in_run"]
    assert {path.name for path in (tmp_path / "x").iterdir()} == ALL | {"difference.png"}
    assert "has changed: version" in capsys.readouterr().out
    # of another image, the pictures of the first do not stay
    assert main(["explain", str(output), "scene 01.png", str(tmp_path / "x")]) == 0
    assert {path.name for path in (tmp_path / "x").iterdir()} == ALL
    (images / "scene 01.png").unlink()
    assert main(["explain", str(output), "scene 01.png", str(tmp_path / "x")]) == 1
    assert explained(tmp_path / "x")["error"]["type"] == "NotFound"


def test_a_model_that_has_changed(own, tmp_path):
    _, model, output = own
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"label_ids_to_fuse": []}))
    assert main(["explain", str(output), "scene 00.png", str(tmp_path / "x")]) == 0  # by the run's own stuff ids
    differs = explained(tmp_path / "x")["run"]["fingerprint"]["differs"]
    assert [line.partition(":")[0] for line in differs] == ["model", "postprocess"]


def test_a_bug_leaves_what_was_got_before(own, tmp_path, monkeypatch):
    def load_checked(*arguments, **options):
        raise ZeroDivisionError("the model")

    monkeypatch.setattr(rerun, "load_checked", load_checked)
    with pytest.raises(ZeroDivisionError):
        main(["explain", str(own[2]), "scene 00.png", str(tmp_path / "x")])
    tree = explained(tmp_path / "x")
    assert tree["error"]["stage"] == "load model" and "the model" in tree["error"]["cause"]
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"explain.json", "decoded.png", "canvas.png"}


def test_wrong_usage(own, tmp_path, monkeypatch, capsys):
    _, model, output = own
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ((str(tmp_path), "a.png"), "holds no run.json"),
        ((str(output), "scene 0.png"), "did you mean"),
        ((str(output), "scene 00.png", "file"), "DEST: 'file' is a file"),
        ((str(output), "scene 00.png", "images/x"), "lies inside INPUT"),
    ):
        assert main(["explain", *arguments]) == 2
        said = capsys.readouterr()
        assert message in said.err and said.out == ""
    shutil.rmtree(model)
    assert main(["explain", str(output), "scene 00.png"]) == 2
    assert "model.uri" in capsys.readouterr().err and not (tmp_path / "explain-scene_00").exists()
