"""Cases 01 and 28: annotations of which training would see nothing, or half: crowds, and no annotation at all."""

import json
import shutil

import pytest
from conftest import DEMO_MODEL
from pycocotools import mask as coco_mask

from m2f_batch.cli import main

CROWDS = "all 12 masks are crowds (iscrowd: 1) and not learned; CVAT writes brush masks so: "
ALL = f"{CROWDS}data.crowd_as_object: true takes them as objects"


@pytest.fixture
def case(shared_cases, tmp_path):
    return shutil.copytree(shared_cases / "01-cvat-brush-iscrowd", tmp_path / "case")


def finetune(place, out, *settings):
    sets = [word for setting in ("train.steps=1", "train.batch_size=1", *settings) for word in ("--set", setting)]
    return main(["finetune", str(place), str(out), "--model", str(DEMO_MODEL), "--task", "instance", *sets])


def test_nothing_but_crowds_is_a_fault(case, capsys):
    assert main(["lint", str(case / "train.json")]) == 1
    said = capsys.readouterr().out
    assert "fault   nothing-to-learn: 1" in said
    assert f"{case}/train.json: {CROWDS}--crowd-as-object takes them as objects" in said


def test_nothing_but_crowds_is_refused(case, tmp_path, capsys):
    assert finetune(case / "train.json", tmp_path / "out") == 2
    assert ALL in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    dest = str(tmp_path / "yolo")
    assert main(["convert", str(case / "train.json"), dest, "--from", "coco", "--to", "yolo"]) == 2
    assert "all 12 masks are crowds" in (said := capsys.readouterr().err)
    assert "--crowd-as-object takes them as objects" in said


def test_half_of_them_are_a_note(case, capsys):
    assert main(["lint", str(case / "half.json")]) == 0
    said = capsys.readouterr().out
    assert "note    crowds: 1" in said
    assert "6 of 12 masks are crowds (iscrowd: 1) and not learned; CVAT writes brush masks so" in said


def test_crowds_are_taken_as_objects_where_that_is_asked(case, tmp_path, capsys):
    assert main(["lint", str(case / "train.json"), "--crowd-as-object"]) == 0
    assert "clean   4 images to train on" in capsys.readouterr().out
    options = ["--from", "coco", "--to", "coco", "--crowd-as-object"]
    assert main(["convert", str(case / "train.json"), str(tmp_path / "out.json"), *options]) == 0
    written = json.loads((tmp_path / "out.json").read_text())["annotations"]
    ours = json.loads((case / "train.json").read_text())["annotations"]
    assert [one["iscrowd"] for one in written] == [0] * 12
    wanted = [coco_mask.frPyObjects(one["segmentation"], *one["segmentation"]["size"])["counts"] for one in ours]
    assert [one["segmentation"]["counts"].encode() for one in written] == wanted


@pytest.mark.slow
def test_the_plan_counts_objects_crowds_and_empty_images(case, tmp_path, capsys):
    document = json.loads((case / "half.json").read_text())
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] != 4]
    (case / "some.json").write_text(json.dumps(document))
    crowds = sum(one["iscrowd"] for one in document["annotations"])
    assert finetune(case / "some.json", tmp_path / "out", "augment.crop_size=64") == 0
    wanted = f"data    4 images, 3 categories, instance: {9 - crowds} objects, {crowds} crowds, 1 empty images"
    assert wanted in capsys.readouterr().out


def test_no_annotation_at_all(shared_cases, tmp_path, capsys):
    place = shared_cases / "28-nothing-but-background" / "train.json"
    assert main(["lint", str(place)]) == 1
    assert "train.json: none of 4 images has an object, or a pixel of a class" in capsys.readouterr().out
    assert finetune(place, tmp_path / "out") == 2
    assert "none of 4 images has an object, or a pixel of a class" in capsys.readouterr().err


def test_crowd_as_object_is_for_formats_that_have_crowds(case, tmp_path, capsys):
    assert finetune(case, tmp_path / "out", "data.format=labelme", "data.crowd_as_object=true") == 2
    assert "data.crowd_as_object: True does not apply to data.format 'labelme'" in capsys.readouterr().err
