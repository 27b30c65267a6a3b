"""Root cause F5: where every image has a fault, lint prints them all and ends with 1, in every format."""

import json

import numpy as np
import pytest
from PIL import Image

from m2f_batch.cli import main

SIZE = (32, 40)  # height, width


def coco(folder):
    images = [{"id": number, "file_name": f"p{number}.jpg", "height": -1, "width": 40} for number in (1, 2, 3)]
    shapes = [
        {"id": number, "image_id": number, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20]]}
        for number in (1, 2, 3)
    ]
    tree = {"images": images, "annotations": shapes, "categories": [{"id": 1, "name": "ball"}]}
    (folder / "train.json").write_text(json.dumps(tree))
    return [str(folder / "train.json")], "malformed", 3


def panoptic(folder):
    (folder / "train").mkdir()
    entries, images = [], []
    for number in (1, 2, 3):
        Image.fromarray(np.ones(SIZE, np.uint16)).save(folder / f"train/{number}.png")
        images.append({"id": number, "file_name": f"p{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
        infos = [{"id": 1, "category_id": 1, "iscrowd": 0}]
        entries.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    tree = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "ball"}]}
    (folder / "train.json").write_text(json.dumps(tree))
    return [str(folder / "train.json"), "--format", "coco-panoptic"], "unreadable-mask", 3


def masks(folder, form):
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(3):
        Image.new("RGB", SIZE[::-1]).save(folder / f"images/{number}.jpg")
        (folder / f"masks/{number}.png").write_bytes(b"no PNG")
    return [str(folder / "masks"), "--images", str(folder / "images"), "--format", form], "unreadable-mask", 3


def semantic(folder):
    return masks(folder, "semantic-png")


def instance(folder):
    return masks(folder, "instance-png")


def yolo(folder):
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(3):
        (folder / f"images/{number}.jpg").write_bytes(b"no image")
        (folder / f"labels/{number}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (folder / "data.yaml").write_text("train: images\nnames: [ball]\n")
    return [str(folder / "data.yaml"), "--format", "yolo"], "missing-image", 3


def labelme(folder):
    for number in range(3):
        (folder / f"{number}.json").write_text("{" if number else '{"imagePath": "0.png", "shapes": 5}')
    return [str(folder), "--format", "labelme"], "malformed", 3


@pytest.mark.parametrize("made", [coco, panoptic, semantic, instance, yolo, labelme], ids=lambda made: made.__name__)
def test_all_faults_are_printed(made, tmp_path, capsys):
    arguments, kind, count = made(tmp_path)
    assert main(["lint", *arguments, "--json", str(tmp_path / "found.json")]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert f"fault   {kind}: {count}\n" in said.out
    assert "fault   no-images: 1\n" in said.out
    assert said.out.splitlines()[-1].startswith("faulty  0 images to train on")
    found = {entry["kind"]: entry for entry in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert len(found[kind]["examples"]) == count


def test_training_stops_at_the_first_of_them(tmp_path, capsys):
    arguments, _, _ = coco(tmp_path)
    assert main(["finetune", *arguments, str(tmp_path / "out"), "--set=train.steps=1"]) == 2
    assert "images[0]: needs" in capsys.readouterr().err


def test_what_ends_the_command_hides_nothing(tmp_path, capsys):
    """A val side that is not there, after a train side full of faults."""
    arguments, kind, count = coco(tmp_path)
    assert main(["lint", *arguments, "--val", str(tmp_path / "nowhere.json")]) == 2
    said = capsys.readouterr()
    assert f"fault   {kind}: {count}\n" in said.out
    assert f"data.val: {tmp_path}/nowhere.json" in said.err


def test_an_empty_list_of_images_is_one_fault(tmp_path, capsys):
    (tmp_path / "train.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    assert main(["lint", str(tmp_path / "train.json")]) == 1
    assert "fault   no-images: 1\n" in capsys.readouterr().out
    assert main(["finetune", str(tmp_path / "train.json"), str(tmp_path / "out"), "--set=train.steps=1"]) == 2
    assert f"{tmp_path}/train.json: " in capsys.readouterr().err


def test_a_val_side_without_an_image_is_a_fault_too(tmp_path, capsys):
    train: dict[str, object] = {"images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]}
    train["categories"] = [{"id": 1, "name": "ball"}]
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20]]}
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    (tmp_path / "train.json").write_text(json.dumps(train | {"annotations": [shape]}))
    (tmp_path / "val.json").write_text(json.dumps(train | {"annotations": [], "images": [{"id": 1}]}))
    assert main(["lint", str(tmp_path / "train.json"), "--val", str(tmp_path / "val.json")]) == 1
    said = capsys.readouterr().out
    assert f"--val: {tmp_path}/val.json: has no images that could be read" in said
    assert "fault   malformed: 1\n" in said
