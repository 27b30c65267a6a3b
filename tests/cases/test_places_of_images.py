"""Where the images of annotations are: in the trees of COCO, CVAT and datumaro, and under names with a tool's marks."""

import json
import shutil

import pytest
from test_coco_spellings import document, written

from m2f_batch.cli import main
from m2f_batch.inputs.coco_input import list_coco
from m2f_batch.storage.places import open_store


def moved(tmp_path, image, name, annotations="train.json"):
    """A dataset with its image at ``image``, which the JSON at ``annotations`` calls ``name``."""
    content = document()
    content["images"][0]["file_name"] = name
    place = written(tmp_path, content)
    for source, target in ((tmp_path / "a.png", tmp_path / image), (place, tmp_path / annotations)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    return tmp_path / annotations


@pytest.mark.parametrize(
    ("image", "name", "ways"),
    [
        ("my photo.png", "my%2520photo.png", "percent-encoding"),
        ("a.png", "a.png.png", "another extension"),
        ("a.png.png", "a.png", "another extension"),
        ("a.png", "a1b2c3d4-a.png", "what a tool put before or behind them"),
        ("a1b2c3d4-a.png", "a.png", "what a tool put before or behind them"),
        ("a.png", "/data/upload/3/a1b2c3d4-a.png", "folders, what a tool put before or behind them"),
        ("a.png", "a_png.rf.0123456789abcdef0123456789abcdef.png", "what a tool put before or behind them"),
        ("train/a.png", "/data/local-files/?d=train/a.png", "folders"),
    ],
)
def test_names_with_a_tools_marks_are_read_and_said(tmp_path, capsys, image, name, ways):
    place = moved(tmp_path, image, name)
    assert main(["lint", str(place)]) == 0, capsys.readouterr().out
    said = f"1 of 1 names are read as those of files that are there ({ways}): {name!r} is {image!r}"
    assert said in capsys.readouterr().out


def test_marks_do_not_make_one_image_of_two(tmp_path, capsys):
    """Two files that may be meant, and a name in another folder without any mark, are no reading."""
    place = moved(tmp_path, "a1b2c3d4-a.png", "a.png")
    shutil.copy(tmp_path / "a1b2c3d4-a.png", tmp_path / "b1b2c3d4-a.png")
    assert main(["lint", str(place)]) == 1
    said = "1 of 1 names are of no file: 'a.png' may be 'a1b2c3d4-a.png' or 'b1b2c3d4-a.png'"
    out = capsys.readouterr().out
    assert said in out
    assert "name the folder of the images: --images" in out
    other = tmp_path / "other"
    other.mkdir()
    assert main(["lint", str(moved(other, "two/a.png", "one/a.png"))]) == 1
    assert "'one/a.png' is not there, and 'two/a.png' is" in capsys.readouterr().out


@pytest.mark.parametrize("image", ["images/default/a.png", "train2017/a.png", "a.png"])
def test_images_beside_a_folder_of_annotations(tmp_path, capsys, image):
    place = moved(tmp_path, image, "a.png", "annotations/instances_default.json")
    assert main(["lint", str(place)]) == 0, capsys.readouterr().out
    assert f"(folders): 'a.png' is {image!r}" in capsys.readouterr().out
    listing = list_coco(open_store(str(place)), str(place), None)
    assert listing.table["uri"].to_pylist() == [str(tmp_path / image)]
    assert f"(folders): 'a.png' is {image!r}" in "".join(listing.notes)


def test_a_split_that_two_folders_have_is_not_guessed(tmp_path, capsys):
    place = moved(tmp_path, "images/train/a.png", "a.png", "annotations/instances_train.json")
    (tmp_path / "images" / "val").mkdir()
    shutil.copy(tmp_path / "images/train/a.png", tmp_path / "images/val/a.png")
    assert main(["lint", str(place)]) == 1
    assert "'a.png' may be 'images/train/a.png' or 'images/val/a.png'" in capsys.readouterr().out
    assert main(["lint", str(place), "--images", str(tmp_path / "images/train")]) == 0


def test_a_bucket_that_nobody_can_ask_leaves_the_folder_of_the_images(tmp_path, capsys, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # another client than one that found keys before
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    place = moved(tmp_path, "photos/a.png", "s3://bucket/train/a.png")
    assert main(["lint", str(place), "--images", str(tmp_path / "photos")]) == 0, capsys.readouterr().out
    assert "(folders): 's3://bucket/train/a.png' is 'a.png'" in capsys.readouterr().out
    assert json.loads(place.read_text())["images"][0]["file_name"].startswith("s3://")


def test_convert_says_which_images_are_not_there(tmp_path, capsys):
    place = moved(tmp_path, "photos/b.png", "a.png")
    assert main(["convert", str(place), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    said = (
        f"warning: 1 of 1 images are not there ({tmp_path / 'a.png'}): m2f-batch lint names them, --drop-faulty leaves"
    )
    assert said in capsys.readouterr().out
