"""Cases 02, 13, 40, 41 and 04: YOLO with paths and names as people have them, labels of other tasks, lost labels."""

import json
import shutil
from pathlib import Path

import pytest

from m2f_batch.cli import main

TASKS = "these are labels for pose, and no outlines"


def lint(file: Path, *options: str) -> int:
    return main(["lint", str(file), "--format", "yolo", *options])


def convert(file: Path, dest: Path, *options: str) -> int:
    return main(["convert", str(file), str(dest), "--from", "yolo", "--to", "coco", *options])


def boxes(folder: Path, labels: dict[str, str]) -> dict[str, list[list[float]]]:
    """Boxes x0, y0, x1, y1 in shares of the outlines in label files, by the image that goes with each."""
    found = {}
    for image, label in labels.items():
        lines = [[float(word) for word in line.split()[1:]] for line in (folder / label).read_text().splitlines()]
        found[image] = [[min(line[::2]), min(line[1::2]), max(line[::2]), max(line[1::2])] for line in lines]
    return found


def check(document: dict, expected: dict[str, list[list[float]]]) -> None:
    """The boxes of a COCO JSON are those of the label files, within a pixel."""
    assert sorted(Path(image["file_name"]).name for image in document["images"]) == sorted(expected)
    for image in document["images"]:
        ours = [one["bbox"] for one in document["annotations"] if one["image_id"] == image["id"]]
        theirs = expected[Path(image["file_name"]).name]
        assert len(ours) == len(theirs)
        for (x, y, width, height), (x0, y0, x1, y1) in zip(ours, theirs, strict=True):
            w, h = image["width"], image["height"]
            assert [x, y, x + width, y + height] == pytest.approx([x0 * w, y0 * h, x1 * w, y1 * h], abs=1)


@pytest.mark.parametrize(("part", "folder"), [("train", "train"), ("val", "valid")])
def test_roboflows_paths(shared_cases, tmp_path, capsys, part, folder):
    root = shutil.copytree(shared_cases / "02-roboflow-yolo-dotdot", tmp_path / "case")
    assert convert(root / "data.yaml", tmp_path / "out.json", "--part", part) == 0
    captured = capsys.readouterr()
    read = f"{part}: '../{folder}/images' is not there, and read as '{root}/{folder}/images'"
    assert read in captured.err
    stems = [f"i{number}_jpg.rf.0000000{number}" for number in range(4)]
    expected = boxes(root / folder / "labels", {f"{stem}.jpg": f"{stem}.txt" for stem in stems})
    check(json.loads((tmp_path / "out.json").read_text()), expected)
    assert lint(root / "data.yaml") == 0
    shutil.rmtree(root / "train")
    assert lint(root / "data.yaml") == 2
    said = "train: '../train/images': there is no such folder or list"
    assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("file", "names", "said"),
    [
        ("digits", ["0", "1", "2"], ""),
        ("yesno", ["yes", "no", "on"], ""),
        ("bom", ["ball", "crate", "star"], ""),
        ("trailing", ["ball", "crate", "star"], ""),
        ("ncmismatch", ["ball", "crate", "star"], "'nc' is 80 and 'names' has 3: the names are taken"),
        ("ncmore", ["ball", "crate", "star", "extra", "more"], "'nc' is 3 and 'names' has 5: the names are taken"),
        ("windows", ["ball", "crate", "star"], r"train: 'images\\train' at path 'C:\\data\\set' is not there"),
        (
            "pathroot",
            ["ball", "crate", "star"],
            "train: 'images/train' at path '13-yolo-names' is not there, and read as",
        ),
        ("txtlist", ["ball", "crate", "star"], "4 of 4 names are read as those of files that are there (folders)"),
    ],
)
@pytest.mark.parametrize("folder", ["13-yolo-names", "other"])
def test_names_and_paths(shared_cases, tmp_path, capsys, file, names, said, folder):
    root = shutil.copytree(shared_cases / "13-yolo-names", tmp_path / folder)
    assert convert(root / f"{file}.yaml", tmp_path / "out.json") == 0
    assert said in capsys.readouterr().err
    document = json.loads((tmp_path / "out.json").read_text())
    assert [category["name"] for category in document["categories"]] == names
    expected = boxes(root / "labels/train", {f"i{number}.jpg": f"i{number}.txt" for number in range(4)})
    check(document, expected)
    assert lint(root / f"{file}.yaml") == 0


def test_a_yaml_with_tabs_and_a_name_twice(shared_cases, tmp_path, capsys):
    root = shutil.copytree(shared_cases / "13-yolo-names", tmp_path / "case")
    assert lint(root / "tabs.yaml") == 2
    assert "tabs.yaml' is not valid YAML" in capsys.readouterr().err
    assert lint(root / "dup.yaml") == 1
    assert "fault   duplicate-category-name: 1" in capsys.readouterr().out


def test_key_points_are_no_outlines(shared_cases, tmp_path, capsys):
    root = shutil.copytree(shared_cases / "40-yolo-key-points", tmp_path / "case")
    assert convert(root / "data.yaml", tmp_path / "out.json") == 2
    said = f"labels/f0.txt: line 1: has a box and 6 numbers of key points, as kpt_shape says: {TASKS}"
    assert said in capsys.readouterr().err
    assert lint(root / "data.yaml") == 1
    out = capsys.readouterr().out
    assert "fault   no-mask: 6" in out
    assert "fault   nothing-to-learn: 1" in out
    (root / "data.yaml").write_text("train: train/images\nnames: [hand, foot]\n")  # nothing says so but the lines
    assert lint(root / "data.yaml") == 1
    assert f"all 6 lines are a box and key points (x, y, visible): {TASKS}" in capsys.readouterr().out
    assert convert(root / "data.yaml", tmp_path / "out.json") == 2
    assert not (tmp_path / "out.json").exists()


def test_label_files_of_no_image(shared_cases, tmp_path, capsys):
    root = shutil.copytree(shared_cases / "41-yolo-labels-of-no-image", tmp_path / "case")
    images = {f"street{number}.jpg": f"street{number}.txt" for number in (0, 1)}
    images |= {f"a1b2c3d4-street{number}.jpg": f"street{number}.txt" for number in (2, 3)}
    assert convert(root / "data.yaml", tmp_path / "out.json") == 0
    assert "2 images go with a label file whose name is spelled otherwise" in capsys.readouterr().err
    check(json.loads((tmp_path / "out.json").read_text()), boxes(root / "train/labels", images))
    assert lint(root / "data.yaml") == 0
    (root / "train/labels/street3.txt").rename(root / "train/labels/lane9.txt")  # what no reading explains
    capsys.readouterr()
    assert lint(root / "data.yaml") == 1
    out = capsys.readouterr().out
    assert "fault   lost-labels: 1" in out
    label = root / "train/labels/lane9.txt"
    assert f"1 label files go with no image ({label}), and 1 images have no label file" in out
    assert convert(root / "data.yaml", tmp_path / "more.json") == 2


def test_hidden_folders(shared_cases, tmp_path, capsys):
    root = shutil.copytree(shared_cases / "04-ipynb-checkpoints", tmp_path / "case")
    assert lint(root / "yolo/data.yaml") == 0
    out = capsys.readouterr().out
    assert "clean   4 images to train on" in out
    assert "1 hidden files are skipped (.ipynb_checkpoints/i1-checkpoint.jpg)" in out
    assert "unlabelled-image" not in out
    where = ["--format", "semantic-png", "--images", str(root / "semantic/images")]
    assert main(["lint", str(root / "semantic/masks"), *where]) == 0
    out = capsys.readouterr().out
    assert "clean   4 images to train on" in out
    assert out.count("1 hidden files are skipped (.ipynb_checkpoints/i0-checkpoint.") == 2
