"""Folders of labelme JSONs as people have them: renamed images, JSONs of something else, images without one."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.cli import main

BOX = [[2, 3], [10, 3], [10, 9], [2, 9]]
WANTED = np.zeros((24, 32), np.uint8)
WANTED[3:9, 2:10] = 1


def labelled(folder, stem, *, image=None, **changes):
    """A JSON called ``stem`` with one object, and its image, called ``image`` if not the same."""
    pixels = np.full((24, 32, 3), len(stem) * 20 + ord(stem[-1]), np.uint8)
    Image.fromarray(pixels).save(folder / f"{image or stem}.png")
    shape = {"label": "ball", "points": BOX, "shape_type": "polygon"} | changes.pop("shape", {})
    document = {"imagePath": f"{stem}.png", "shapes": [shape], "imageHeight": 24, "imageWidth": 32} | changes
    (folder / f"{stem}.json").write_text(json.dumps(document))


def lint(folder, capsys):
    code = main(["lint", str(folder), "--format", "labelme"])
    return code, capsys.readouterr().out


def converted(folder, tmp_path):
    assert main(["convert", str(folder), str(tmp_path / "out.json"), "--from", "labelme", "--to", "coco"]) == 0
    return json.loads((tmp_path / "out.json").read_text())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "shape",
    [
        {"points": [{"x": x, "y": y} for x, y in BOX]},
        {"points": [[str(x), str(y)] for x, y in BOX]},
        {"label": " ball"},
        {"label": 7},
    ],
)
def test_points_and_labels_in_other_spellings(folder, tmp_path, capsys, shape):
    labelled(folder, "a", shape=shape)
    assert lint(folder, capsys)[0] == 0
    found = converted(folder, tmp_path)
    np.testing.assert_array_equal(coco_mask.decode(found["annotations"][0]["segmentation"]), WANTED)
    assert [one["name"] for one in found["categories"]] == ["7" if shape.get("label") == 7 else "ball"]


@pytest.mark.parametrize("name", [None, "", "before it was renamed.png"])
def test_the_image_is_the_one_with_the_name_of_its_json(folder, tmp_path, capsys, name):
    labelled(folder, "a", imagePath=name)
    code, said = lint(folder, capsys)
    assert (code, "fault" in said.replace("nothing that ruins", "")) == (0, False)
    if name:
        assert "1 of 1 images are not there by their 'imagePath', and are those with the name of their JSON" in said
        assert f"'a.png' for {name!r}" in said
    assert [one["file_name"] for one in converted(folder, tmp_path)["images"]] == ["a.png"]


def test_an_image_in_the_json_alone_is_named_with_the_way_out(folder, capsys):
    labelled(folder, "a")
    labelled(folder, "b")
    held = io.BytesIO()
    Image.open(folder / "a.png").save(held, "PNG")
    document = json.loads((folder / "a.json").read_text()) | {"imageData": base64.b64encode(held.getvalue()).decode()}
    (folder / "a.json").write_text(json.dumps(document))
    assert lint(folder, capsys)[0] == 0
    (folder / "a.png").unlink()
    code, said = lint(folder, capsys)
    assert (code, "fault   missing-image: 1" in said) == (1, True)
    assert (
        "a.json: its image 'a.png' is not there; the JSON itself holds it as 'imageData': write it to an image" in said
    )


def test_what_is_no_annotation_is_left_out_and_counted(folder, tmp_path, capsys):
    labelled(folder, "a")
    labelled(folder, "b")
    (folder / "b.json").unlink()
    (folder / "classes.json").write_text('["ball"]')
    (folder / "settings.json").write_text('{"version": 1}')
    code, said = lint(folder, capsys)
    assert code == 0, said
    assert "2 JSONs have no 'shapes' and no 'imagePath', and are left out" in said
    assert f"1 of 2 images have no JSON and are left out ({folder}/b.png)" in said
    assert len(converted(folder, tmp_path)["images"]) == 1


def test_a_folder_of_other_jsons_is_no_labelme(folder, capsys):
    (folder / "classes.json").write_text('["ball"]')
    code, said = lint(folder, capsys)
    assert code == 1
    assert "classes.json: is no labelme JSON: it needs a list 'shapes'" in said


def test_jsons_in_a_folder_beside_their_images(folder, tmp_path, capsys):
    labelled(folder, "a")
    (tmp_path / "ann").mkdir()
    (folder / "a.json").rename(tmp_path / "ann" / "a.json")
    code, said = lint(tmp_path / "ann", capsys)
    assert code == 0, said
    assert "'a.png' is 'photos/a.png'" in said


def test_what_lies_around_a_folder_of_jsons_is_not_counted(folder, tmp_path, capsys):
    labelled(folder, "a")
    labelled(folder, "b")
    (folder / "b.json").unlink()
    (tmp_path / "labels").mkdir()
    (folder / "a.json").rename(tmp_path / "labels" / "a.json")
    code, said = lint(tmp_path / "labels", capsys)
    assert (code, "'a.png' is 'photos/a.png'" in said, "have no JSON" in said) == (0, True, False)
