"""Case T4: ``label_ids_to_fuse`` in config.json that has outlived the labels of an earlier training."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of, in_process, rows_of

from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.flow.job import check


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(draw_scene(3).image).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def model_with(folder: Path, stuff_ids: object) -> Path:
    """The demo model, whose labels are 0 to 5 and whose stuff is 4 and 5, with another list."""
    shutil.copytree(DEMO_MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label_ids_to_fuse": stuff_ids}))
    return folder


def test_panoptic_says_what_to_set(images, tmp_path, capsys):
    model = model_with(tmp_path / "model", [4, 9, 12])
    assert main(["segment", str(images), str(tmp_path / "run"), "--model", str(model), "--task", "panoptic"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"m2f-batch segment: postprocess.stuff_ids: is not given, and so {model} says what is stuff, but "
        "label_ids_to_fuse in its config.json names [9, 12], which are no labels of it (0 to 5); give the ids of the "
        "labels that are, e.g. --set 'postprocess.stuff_ids=[0]', or [] if none is\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_tasks_that_merge_nothing_go_without_the_ids(images, tmp_path, task):
    """The rows are those of a list without the ids that are no labels."""
    rows = []
    for name, stuff_ids in (("new", [4, 5]), ("old", [4, 5, 9, 12])):
        model = model_with(tmp_path / name, stuff_ids)
        output = tmp_path / f"{name}-run"
        assert in_process(config_of(images, output, model, model={"task": task})) == 0
        rows.append([row["segments"] for row in rows_of(output)])
    assert rows[0] == rows[1] and rows[0][0]


@pytest.mark.parametrize(
    ("stuff_ids", "expected"),
    [
        (
            [4, 5, 9],
            "label_ids_to_fuse in its config.json names [9], which are no labels of it (0 to 5), and so "
            "they are passed over; [4, 5] of it stay stuff, which instance leaves out; postprocess.stuff_ids says it "
            "otherwise",
        ),
        (
            [9],
            "label_ids_to_fuse in its config.json names [9], which are no labels of it (0 to 5), and so "
            "they are passed over; postprocess.stuff_ids says it otherwise",
        ),
        (
            [0, 1, 2, 3, 4, 5],
            "every label is stuff, which instance leaves out: nothing is found; set postprocess.stuff_ids",
        ),
    ],
)
def test_instance_says_what_becomes_of_the_list(images, tmp_path, stuff_ids, expected):
    model = model_with(tmp_path / "model", stuff_ids)
    model_and_task = {"task": "instance"}
    assert check(config_of(images, tmp_path / "run", model, model=model_and_task)).labeling.notes == (expected,)
    given = {"stuff_ids": [4, 5]}
    config = config_of(images, tmp_path / "run", model, model=model_and_task, postprocess=given)
    assert check(config).labeling.notes == ()
