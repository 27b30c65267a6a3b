"""Folders of mask PNGs as people have them: beside their images, under other names, with names and colors in files."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.cli import main
from m2f_batch.datasets import names
from m2f_batch.evaluation.ground_truth import GroundTruth

VALUES = np.zeros((24, 32), np.uint8)
VALUES[3:9, 2:10] = 1
VALUES[5:17, 14:24] = 2
COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def written(folder, image, mask, save=lambda values, place: Image.fromarray(values).save(place)):
    for number in (1, 2, 13):
        places = [folder / name.format(number) for name in (image, mask)]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(places[0])
        save(VALUES, places[1])


def lint(capsys, *arguments, form="semantic-png"):
    code = main(["lint", *map(str, arguments), "--format", form])
    return code, capsys.readouterr().out


def assert_exact(tmp_path, capsys, *arguments, said=()):
    code, out = lint(capsys, *arguments)
    assert code == 0, out
    for words in said:
        assert words in out
    annotations, *options = map(str, arguments)
    target = str(tmp_path / "out.json")
    assert main(["convert", annotations, target, "--from", "semantic-png", "--to", "coco", *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["images"]) == 3
    by_class = {number: number == VALUES for number in range(3)}
    places = [one["id"] for one in found["categories"]]
    for one in found["annotations"]:
        np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]), by_class[places.index(one["category_id"])])
    assert len(found["annotations"]) == 9
    return [one["name"] for one in found["categories"]]


@pytest.mark.parametrize(
    ("image", "mask", "said"),
    [
        ("images/img_{}.jpg", "masks/mask_{}.png", "(img_1: mask_1.png)"),
        (
            "images/img{}.jpg",
            "masks/seg{}.png",
            "3 masks go with the images whose names begin otherwise (img1: seg1.png)",
        ),
        ("all/{}.jpg", "all/{}.png", "clean"),
        ("all/{}.jpg", "all/{}_mask.png", "by the ending '_mask'"),
        ("all/benign ({}).png", "all/benign ({})_mask.png", "by the ending '_mask'"),
        ("all/{}.jpg", "all/{}.tif", "clean"),
    ],
)
@pytest.mark.parametrize("names_images", [True, False])
def test_masks_under_other_names_and_among_their_images(tmp_path, capsys, image, mask, said, names_images):
    written(tmp_path, image, mask)
    folders = [tmp_path / name.partition("/")[0] for name in (mask, image)]
    options = ["--images", folders[1]] if names_images or folders[0] != folders[1] else []
    assert_exact(tmp_path, capsys, folders[0], *options, said=[said])


def test_beginnings_pair_nothing_where_a_mask_stays_alone(tmp_path, capsys):
    written(tmp_path, "images/img_{}.jpg", "masks/mask_{}.png")
    (tmp_path / "images" / "img_2.jpg").rename(tmp_path / "images" / "img_3.jpg")
    code, said = lint(capsys, tmp_path / "masks", "--images", tmp_path / "images")
    assert (code, "fault   missing-image: 3" in said) == (1, True)


def with_alpha(values, place):
    Image.fromarray(np.stack([values, np.full_like(values, 255)], 2), "LA").save(place)


def of_32_bits(values, place):
    Image.fromarray(values.astype(np.int32)).save(place)


@pytest.mark.parametrize(("mask", "save"), [("masks/{}.png", with_alpha), ("masks/{}.tif", of_32_bits)])
def test_kinds_of_files_that_hold_the_values(tmp_path, capsys, mask, save):
    written(tmp_path, "images/{}.jpg", mask, save)
    assert_exact(tmp_path, capsys, tmp_path / "masks", "--images", tmp_path / "images")


@pytest.mark.parametrize("extension", ["bmp", "gif"])
def test_other_kinds_are_named_with_the_way_out(tmp_path, capsys, extension):
    written(tmp_path, "images/{}.jpg", "masks/{}." + extension)
    assert (
        main(["lint", str(tmp_path / "masks"), "--format", "semantic-png", "--images", str(tmp_path / "images")]) == 2
    )
    said = f"has no PNG; it has 3 .{extension}; masks are read from PNGs and TIFFs: write them as such"
    assert said in capsys.readouterr().err


def test_the_file_of_colors_is_named_where_there_is_one(tmp_path, capsys):
    """CVAT's "Segmentation mask" has labelmap.txt above SegmentationClass."""
    written(
        tmp_path,
        "JPEGImages/{}.jpg",
        "SegmentationClass/{}.png",
        lambda values, place: Image.fromarray(COLORS[values]).save(place),
    )
    map_of_labels = tmp_path / "labelmap.txt"
    map_of_labels.write_text("# label:color_rgb:parts:actions\nsky:0,0,0::\nball:255,0,0::\ncrate:0,255,0::\n")
    arguments = [tmp_path / "SegmentationClass", "--images", tmp_path / "JPEGImages"]
    code, said = lint(capsys, *arguments)
    assert code == 1
    assert f"are read with --palette={map_of_labels}" in said
    assert "say with --palette what colors are" in said
    assert assert_exact(tmp_path, capsys, *arguments, "--palette", map_of_labels) == ["sky", "ball", "crate"]


@pytest.mark.parametrize(
    "document",
    [
        {"categories": [{"id": number, "name": name} for number, name in enumerate(["sky", "ball", "crate"])]},
        {"version": 2, "labels": [{"name": f"a--{name}", "readable": name} for name in ("sky", "ball", "crate")]},
    ],
)
def test_names_of_coco_and_mapillary_vistas(tmp_path, capsys, document):
    written(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "config.json").write_text(json.dumps(document))
    arguments = [tmp_path / "masks", "--images", tmp_path / "images", "--names", tmp_path / "config.json"]
    assert assert_exact(tmp_path, capsys, *arguments) == ["sky", "ball", "crate"]


def test_ade20k_by_the_names_of_its_images(tmp_path, capsys):
    written(tmp_path, "images/ADE_train_0000000{}.jpg", "masks/ADE_train_0000000{}.png")
    arguments = [tmp_path / "masks", "--images", tmp_path / "images"]
    code, said = lint(capsys, *arguments)
    assert code == 0
    assert "3 images are called as ADE20K's, whose own masks hold 0 for no label and class ids + 1" in said
    assert "ADE20K" not in lint(capsys, *arguments, "--do-reduce-labels")[1]


def test_files_beside_are_asked_for_at_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(names, "stat_many", lambda wanted: asked.append(len(wanted)) or [None] * len(wanted))
    assert names.names_beside(str(tmp_path)) is None
    assert asked == [2 * len(names.BESIDE)]


@pytest.mark.parametrize("form", [None, "semantic-png"])
def test_evaluate_finds_the_images_of_tiff_masks_in_input(tmp_path, form):
    written(tmp_path, "photos/{}.jpg", "truth/{}.tif")
    found, dataset = GroundTruth(str(tmp_path / "truth"), form).read(str(tmp_path / "photos"))
    assert found == "semantic-png"
    assert dataset.table["uri"].to_pylist() == [str(tmp_path / "photos" / f"{number}.jpg") for number in (1, 13, 2)]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "png/task-{0}-annotation-{0}-by-1-tag-ball-{1}.png"),  # Label Studio
        ("images/{}.jpg", "png/{0}_ball_{1}.png"),  # Open Images, as datumaro writes it
        ("png/{0}/images/{0}.png", "png/{0}/masks/{0}abc{1}.png"),  # Data Science Bowl 2018
        ("png/{0}/images/{0}.jpg", "png/{0}/masks/{0}abc{1}.png"),
    ],
)
@pytest.mark.parametrize("form", ["semantic-png", "instance-png"])
def test_masks_of_single_objects_are_known(tmp_path, capsys, image, mask, form):
    for part in (0, 1):
        written(tmp_path, image, mask.replace("{1}", str(part)))
    options = ["--images", tmp_path / "images"] if image.startswith("images") else []
    code, said = lint(capsys, tmp_path / "png", *options, form=form)
    assert (code, "fault   missing-image: 1\n" in said) == (1, True)
    assert f"{tmp_path / 'png'}: its masks are of single objects, several an image (e.g. " in said
    assert "paint the objects of an image into one PNG, each in its number" in said
