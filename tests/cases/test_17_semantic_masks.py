"""Cases 17, 42, 11 and 04: semantic masks by suffix, in colors, of other kinds of file, and resized smoothly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.cli import main

NAMES = ["background", "ball", "crate", "star"]
PALETTE = "{background: [0, 0, 0], ball: [255, 0, 0], crate: [0, 255, 0], star: [0, 0, 255]}"


def lint(folder: Path, *options: str, masks: str = "masks") -> int:
    where = ["--images", str(folder / "images"), "--format", "semantic-png"]
    return main(["lint", str(folder / masks), *where, *options])


def converted(folder: Path, dest: Path, *options: str) -> dict[str, dict[str, np.ndarray]]:
    """The masks by image and class, of the COCO JSON that ``convert`` writes."""
    where = ["--images", str(folder / "images"), "--from", "semantic-png", "--to", "coco"]
    assert main(["convert", str(folder / "masks"), str(dest), *where, *options]) == 0
    document = json.loads(dest.read_text())
    names = {one["id"]: one["name"] for one in document["categories"]}
    files = {one["id"]: Path(one["file_name"]).stem for one in document["images"]}
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in files.values()}
    for one in document["annotations"]:
        code = one["segmentation"]
        mask = coco_mask.decode({"size": code["size"], "counts": code["counts"].encode()}).astype(bool)
        found[files[one["image_id"]]][names[one["category_id"]]] = mask
    return found


@pytest.mark.parametrize(
    ("case", "mask", "options"),
    [
        ("suffix", "{}_gtFine_labelIds.png", ()),
        ("suffix", "{}_gtFine_labelIds.png", ("--mask-suffix", "_gtFine_labelIds")),
        ("tifmask", "{}_leftImg8bit.tif", ()),
        ("rgb", "{}_leftImg8bit.png", ("--palette", PALETTE)),
    ],
)
def test_masks_of_other_names_kinds_and_colors(shared_cases, tmp_path, case, mask, options):
    folder = shutil.copytree(shared_cases / "17-semantic-mask-names" / case, tmp_path / "case")
    found = converted(folder, tmp_path / "out.json", *options)
    assert [*found] == [f"a{number}_leftImg8bit" for number in range(4)]
    for number in range(4):
        values = np.asarray(Image.open(folder / "masks" / mask.format(f"a{number}")))
        if values.ndim == 3:
            values = values @ np.array([1, 2, 3]) // 255
        here = {NAMES[value]: values == value for value in np.unique(values)}
        assert found[f"a{number}_leftImg8bit"].keys() == here.keys()
        for name, expected in here.items():
            np.testing.assert_array_equal(found[f"a{number}_leftImg8bit"][name], expected)
    assert lint(folder, *options) == 0


def test_what_is_said_of_the_suffix_and_of_the_names(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "17-semantic-mask-names" / "suffix", tmp_path / "case")
    assert lint(folder) == 0
    out = capsys.readouterr().out
    assert "masks are taken by the ending '_gtFine_labelIds' of their names, as --mask-suffix would" in out
    assert f"the names of 4 classes are those of {folder}/names.txt" in out
    assert "clean   4 images to train on, 4 categories" in out


def test_colors_without_a_palette(shared_cases, tmp_path):
    folder = shutil.copytree(shared_cases / "17-semantic-mask-names" / "rgb", tmp_path / "case")
    where = ["--images", str(folder / "images"), "--from", "semantic-png", "--to", "coco"]
    options = [str(folder / "masks"), str(tmp_path / "out.json"), *where]
    assert main(["convert", *options]) == 2
    assert main(["convert", *options, "--palette", "{background: [0, 0, 0], ball: [255, 0, 0]}"]) == 2


def test_the_messages_of_masks_that_cannot_be_read(shared_cases, tmp_path, capsys):
    cases = shared_cases / "17-semantic-mask-names"
    assert lint(cases / "jpgmask") == 2
    assert "has no PNG; it has 4 .jpg: JPEG is lossy" in capsys.readouterr().err
    where = ["--images", str(cases / "floatpng/images"), "--from", "semantic-png", "--to", "coco"]
    assert main(["convert", str(cases / "floatpng/masks"), str(tmp_path / "out.json"), *where]) == 2
    assert "all masks only 0 to 3 stretched over 0 to 255, as for the screen" in capsys.readouterr().err
    assert (
        main(
            [
                "convert",
                str(cases / "rgb/masks"),
                str(tmp_path / "o.json"),
                "--images",
                str(cases / "rgb/images"),
                "--from",
                "semantic-png",
                "--to",
                "coco",
            ]
        )
        == 2
    )
    assert "semantic masks in colors are read with --palette={name: [r, g, b], ...}" in capsys.readouterr().err


def test_masks_resized_smoothly(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "42-masks-resized-smoothly", tmp_path / "case")
    assert lint(folder) == 1
    out = capsys.readouterr().out
    assert "fault   smooth-mask: 2" in out
    one, two = f"{folder}/masks/v1.png", f"{folder}/masks/v0.png, {folder}/masks/v2.png"
    lines = "it is nothing but lines of a few pixels between a lower and a higher class"
    assert f"class 2 ('walker'): in 1 of the 2 masks that have it, {lines} ({one})" in out
    assert f"class 3 ('cyclist'): in 2 of the 3 masks that have it, {lines} ({two})" in out


def test_names_in_another_unicode_form(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "11-nfc-nfd-names" / "semantic", tmp_path / "case")
    assert lint(folder) == 0
    out = capsys.readouterr().out
    assert "clean   4 images to train on" in out
    assert "4 masks go with an image whose name is spelled otherwise" in out
