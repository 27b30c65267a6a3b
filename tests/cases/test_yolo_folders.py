"""YOLO datasets whose labels are elsewhere, or called otherwise, and lines that hold more than an outline."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.cli import main

WANTED = np.zeros((24, 32), np.uint8)
WANTED[3:9, 2:10] = 1
OUTLINE = [2 / 32, 3 / 24, 6 / 32, 3 / 24, 10 / 32, 3 / 24, 10 / 32, 9 / 24, 2 / 32, 9 / 24]
BOX = [6 / 32, 6 / 24, 8 / 32, 6 / 24]
DATA = "train: images\nnames: [ball]\n"


def written(tmp_path, *, data=DATA, images="images", label="labels/{}.txt", numbers=OUTLINE, shift=0.0):
    for number in (1, 2, 3):
        for place in (tmp_path / images / f"{number}.png", tmp_path / label.format(number)):
            place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / images / f"{number}.png")
        line = " ".join(f"{value + shift * number:.6f}" for value in numbers)
        (tmp_path / label.format(number)).write_text(f"0 {line}\n")
    (tmp_path / "data.yaml").write_text(data)
    return tmp_path / "data.yaml"


def lint(capsys, *arguments):
    code = main(["lint", *map(str, arguments), "--format", "yolo"])
    return code, capsys.readouterr().out


def assert_exact(tmp_path, *options):
    place, out = str(tmp_path / "data.yaml"), str(tmp_path / "out.json")
    assert main(["convert", place, out, "--from", "yolo", "--to", "coco", *map(str, options)]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert len(found) == 3
    for one in found:
        np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]), WANTED)


@pytest.mark.parametrize("label", ["labels/{}.TXT", "labels/{}.png.txt", "labels/a1b2c3d4-{}.txt"])
def test_label_files_in_other_spellings(tmp_path, capsys, label):
    code, said = lint(capsys, written(tmp_path, label=label))
    assert code == 0, said
    assert "3 images go with a label file whose name is spelled otherwise" in said
    assert_exact(tmp_path)


@pytest.mark.parametrize("label", ["labels_segment/{}.txt", "Labels/{}.txt", "txt/train/{}.txt"])
def test_label_files_that_are_elsewhere_are_named(tmp_path, capsys, label):
    code, said = lint(capsys, written(tmp_path, label=label))
    folder = (tmp_path / label).parent
    assert code == 1
    assert f"3 label files of these names are in '{folder}', where nothing looks for them: --masks names" in said
    assert lint(capsys, tmp_path / "data.yaml", "--masks", folder)[0] == 0
    assert_exact(tmp_path, "--masks", folder)


@pytest.mark.parametrize("images", ["images", "images/train", "train/images"])
def test_a_split_that_the_file_does_not_name(tmp_path, capsys, images):
    """supervision writes names and nc alone."""
    place = written(
        tmp_path, data="names: [ball]\nnc: 1\n", images=images, label=images.replace("images", "labels") + "/{}.txt"
    )
    code, said = lint(capsys, place)
    assert code == 0, said
    assert f"'train' is not in it, and read as {images!r}" in said
    assert_exact(tmp_path)


def test_no_split_at_all_is_said_with_the_way_out(tmp_path, capsys):
    place = written(tmp_path, data="names: [ball]\n", images="photos")
    assert main(["lint", str(place), "--format", "yolo"]) == 2
    said = f"'train' is no part of {str(place)!r}; --images names the folder of the images"
    assert said in capsys.readouterr().err


def test_a_box_before_its_outline_is_no_outline(tmp_path, capsys):
    code, said = lint(capsys, written(tmp_path, numbers=[*BOX, *OUTLINE]))
    assert (code, "invalid-mask: 3" in said) == (1, True)
    assert "its first four numbers are the box of the others" in said


def test_key_points_without_visibility_are_known_where_nothing_says_so(tmp_path, capsys):
    """As labels of pose with two numbers a point, without kpt_shape: a loose box, and as many points in each line."""
    loose = [0.3, 0.3, 0.25, 0.12, 0.2, 0.25, 0.3, 0.35, 0.4, 0.3]
    code, said = lint(capsys, written(tmp_path, numbers=loose))
    assert code == 1
    assert "all 3 lines are a box and 3 key points (x, y) in it: these are labels for pose, and no outlines" in said


@pytest.mark.parametrize("center", [0.35, 0.5, 0.6])
def test_outlines_of_one_length_around_the_center_are_outlines(tmp_path, capsys, center):
    """Their first point and their second, taken for a box, would hold them all."""
    far, middle = center + 0.28, center + 0.14
    outline = [center, center, middle, center, far, center, far, far, center, far]
    code, said = lint(capsys, written(tmp_path, numbers=outline))
    assert (code, "key points" in said) == (0, False), said
