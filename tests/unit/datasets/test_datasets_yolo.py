"""YOLO segmentation labels made by hand: where files are looked for, what a line means, what stops the reader."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import notes_to
from m2f_batch.vision.masks.rle import decode_mask

HEIGHT, WIDTH = 20, 40
SQUARE = "0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"
HOLE = "0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/train/{a,b}.png and images/val/c.png; b has no label file."""
    for side, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "labels"):
            (tmp_path / kind / side).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / side / f"{name}.png")
    (tmp_path / "labels/train/a.txt").write_text(f"1 {SQUARE}\n\n0 {HOLE}\n")
    (tmp_path / "labels/val/c.txt").write_text(f"0 {SQUARE}\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [ball, crate]\n")
    return tmp_path


def read(folder: Path, **options: object) -> Dataset:
    return read_dataset("yolo", str(folder / "data.yaml"), **options)  # type: ignore[arg-type]  # the tests say which


def first_mask(dataset: Dataset) -> np.ndarray:
    row = next(dataset.rows())
    return decode_mask(row["segments"][0]["counts"], (row["height"], row["width"]))


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_images_labels_and_classes(folder):
    heard: list[str] = []
    with notes_to(heard.append):
        dataset = read(folder)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(0, "ball", True), (1, "crate", True)]
    a, b = dataset.rows()
    assert (a["uri"], a["image_id"], a["height"], a["width"]) == (f"{folder}/images/train/a.png", 1, HEIGHT, WIDTH)
    assert [segment["category"] for segment in a["segments"]] == [1, 0]
    assert b["segments"] == []
    assert "1 of 2 images have no label file: no objects" in "".join(heard)
    np.testing.assert_array_equal(first_mask(dataset), box(5, 15, 10, 30))


def test_the_other_split_and_other_folders(folder):
    assert read(folder, split="val").table["uri"].to_pylist() == [f"{folder}/images/val/c.png"]
    with pytest.raises(UsageError, match=r"'test' is no part of .*; it has train, val"):
        read(folder, split="test")
    (folder / "elsewhere").mkdir()
    (folder / "labels/train/a.txt").rename(folder / "elsewhere/a.txt")
    dataset = read(folder, images=str(folder / "images/train"), masks=str(folder / "elsewhere"))
    assert [len(row["segments"]) for row in dataset.rows()] == [2, 0]


def test_path_names_as_mapping_and_a_list_of_images(folder):
    (folder / "sub").mkdir()
    (folder / "list.txt").write_text("images/train/a.png\nimages/val/c.png\n")
    (folder / "sub/data.yaml").write_text("path: ..\ntrain: [list.txt]\nnames: {1: crate, 0: ball, 7: sky}\n")
    dataset = read_dataset("yolo", str(folder / "sub/data.yaml"))
    assert [c.id for c in dataset.categories] == [0, 1, 7]
    assert [len(row["segments"]) for row in dataset.rows()] == [2, 1]


def test_sizes_are_those_after_exif_orientation(folder):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images/train/a.png", exif=exif)
    row = next(read(folder).rows())
    assert (row["height"], row["width"]) == (WIDTH, HEIGHT)


def closed(*parts: str) -> str:
    """Parts in one line, each closed by its first point again."""
    return " ".join(" ".join([part, *part.split()[:2]]) for part in parts)


def test_several_parts_in_one_line(folder):
    (folder / "labels/train/a.txt").write_text(f"1 {closed('0 0 0.25 0 0.25 0.5 0 0.5', SQUARE)}")
    expected = box(5, 15, 10, 30) | box(0, 10, 0, 10)
    np.testing.assert_array_equal(first_mask(read(folder)), expected)


@pytest.mark.parametrize(
    "line",
    [
        closed(SQUARE, HOLE),  # parts: the inner one is a hole
        f"{SQUARE} 0.25 0.25 {HOLE} 0.4 0.4 0.25 0.25",  # a seam there and back
        f"{SQUARE} 0.25 0.25 {HOLE} 0.4 0.4",  # the seam back is the closing edge
    ],
)
def test_holes(folder, line):
    (folder / "labels/train/a.txt").write_text(f"1 {line}")
    np.testing.assert_array_equal(first_mask(read(folder)), box(5, 15, 10, 30) & ~box(8, 12, 16, 24))


def test_parts_joined_as_ultralytics_joins_them(folder):
    """``merge_multi_segment`` of its converter: there along the chain of parts and back, no part closed on its own."""
    first, second, third = (
        [(0, 0), (5, 0), (5, 5), (0, 5)],
        [(20, 0), (25, 0), (25, 5), (20, 5)],
        [(30, 9), (36, 9), (36, 15)],
    )
    path = [*first, first[0], second[3], second[0], second[1], *third, third[0], second[1], second[2], second[3]]
    line = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in path)
    (folder / "labels/train/a.txt").write_text(f"1 {line}")
    parts = [[float(v) for point in part for v in point] for part in (first, second, third)]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, HEIGHT, WIDTH))).astype(bool)
    np.testing.assert_array_equal(first_mask(read(folder)), expected)


def test_a_first_point_that_comes_twice_at_once_closes_nothing(folder):
    (folder / "labels/train/a.txt").write_text(f"1 0.25 0.25 {SQUARE}")
    np.testing.assert_array_equal(first_mask(read(folder)), box(5, 15, 10, 30))


@pytest.mark.parametrize(
    ("kind", "line", "text"),
    [
        ("unknown-category", f"2 {SQUARE}", r"line 1: class 2 is none of the 2 names \(0 to 1\)"),
        ("unknown-category", f"0.5 {SQUARE}", "class 0.5 is none"),
        ("no-mask", "1 0.5 0.5 0.2 0.2", "labels for detection"),
        ("no-mask", "1 0.5 0.5 0.2 0.2 0.87", "has a box, a score and no outline: these are results of detection"),
        (
            "no-mask",
            "1 0.5 0.5 0.2 0.2 0.45 0.5 2",
            r"has a box and 1 key points \(x, y, visible\): these are labels for",
        ),
        ("no-mask", "1 0.5 0.5 0.2 0.2 0.45 0.5 2 0 0 0", "has a box and 2 key points"),
        ("invalid-mask", "1 0.5 0.5", "not 2 numbers"),
        ("invalid-mask", "1 0.5 0.5 0.1 0.1 0.2 0.2 0.3", "not 7 numbers"),
        ("invalid-mask", "1 5 5 30 5 30 15", "shares of the image, 0 to 1; one is 30"),
        ("invalid-mask", "1 nan 0 1 0 1 1", "shares of the image"),
        ("malformed", "ball 0 0 1 0 1 1", "all numbers; got 'ball 0 0"),
    ],
)
def test_faults_of_a_line(folder, kind, line, text):
    (folder / "labels/train/a.txt").write_text(line + "\n")
    with pytest.raises(UsageError, match=text) as raised:
        read(folder)
    assert f"{folder}/labels/train/a.txt: line 1: " in str(raised.value)
    found: list[Finding] = []
    read(folder, report=found.append)
    assert kind in [finding.kind for finding in found]


def test_faults_of_files(folder):
    (folder / "labels/train/a.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UsageError, match=r"a.txt: .*utf-8"):
        read(folder)
    (folder / "labels/train/a.txt").unlink()
    heard: list[str] = []
    with notes_to(heard.append), pytest.raises(UsageError, match="none of 2 images has an object"):
        read(folder)
    assert f"2 of 2 images have no label file, e.g. '{folder}/labels/train/a.txt'" in "".join(heard)
    (folder / "images/train/a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"images/train/a.png: its size is not known: decode: Empty"):
        read(folder, report=lambda finding: _raise_if(finding, "missing-image"))


def _raise_if(finding: Finding, kind: str) -> None:
    if finding.kind == kind:
        raise UsageError(str(finding))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: x", "has no 'names'"),
        ("names: [a]\ntrain: 3", "'train' must be a folder of images"),
        ("names: 3\ntrain: x", "names: wanted a list"),
        ("names: [a]\ntrain: x\npath: [1]", "'path' must be a folder"),
        ("names: [a]\ntrain: nowhere", "no such folder"),
        ("names: [a", "is not valid YAML"),
    ],
)
def test_a_settings_file_that_is_none(folder, text, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read(folder)


def notes(folder: Path, **options: object) -> tuple[Dataset, list[str]]:
    found: list[Finding] = []
    dataset = read(folder, report=found.append, **options)
    return dataset, [f"{finding.kind}: {finding.text}" for finding in found]


def test_key_points_that_only_all_lines_tell_of(folder):
    (folder / "labels/train/b.txt").write_text("")
    pose = "0.5 0.5 0.4 0.4 0.45 0.5 1 0.6 0.4 0"  # an even number of shares: it might be five points
    (folder / "labels/train/a.txt").write_text(f"0 {pose}\n1 {pose}\n")
    dataset, found = notes(folder)
    assert found[0] == (
        "no-mask: all 2 lines are a box and key points (x, y, visible): these are labels for pose, and no outlines"
    )
    assert [row["segments"] for row in dataset.rows()] == [[], []]
    (folder / "labels/train/a.txt").write_text(f"0 {pose}\n1 {SQUARE}\n")  # an outline beside it: so they all are
    dataset, found = notes(folder)
    assert [len(row["segments"]) for row in dataset.rows()] == [2, 0]
    assert found == []
    (folder / "data.yaml").write_text("train: images/train\nnames: [ball, crate]\nkpt_shape: [2, 3]\n")
    dataset, found = notes(folder)
    assert [text.partition(":")[0] for text in found] == ["no-mask", "four-corners"]


def test_outlines_of_four_corners_are_read_and_said(folder):
    dataset, found = notes(folder, split="val")
    assert [len(row["segments"]) for row in dataset.rows()] == [1]
    assert found == [
        "four-corners: all 1 outlines have four corners: oriented boxes (OBB) look so, and teach boxes as masks"
    ]


def test_label_files_beside_no_image(folder):
    labels = folder / "labels/train"
    (labels / "b.txt").write_text(f"0 {SQUARE} 0.2 0.5\n")
    (labels / "classes.txt").write_text("ball\ncrate\n")  # no label file
    (labels / ".b.txt").write_text("hidden")
    (labels / "gone.txt").write_text(f"0 {SQUARE}\n")
    dataset, found = notes(folder)
    assert found == [f"spare-labels: 1 label files go with no image ({labels}/gone.txt)"]
    assert [len(row["segments"]) for row in dataset.rows()] == [2, 1]
    (folder / "list.txt").write_text("images/train/a.png\n")  # b is there, and not wanted
    (folder / "data.yaml").write_text("train: list.txt\nnames: [ball, crate]\n")
    assert notes(folder)[1][0] == f"spare-labels: 1 label files go with no image ({labels}/gone.txt)"
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images/train/classes.png")  # its label file is one
    (labels / "classes.txt").write_text(f"1 {SQUARE}\n")
    (folder / "list.txt").write_text("images/train/classes.png\n")
    assert [len(row["segments"]) for row in read(folder).rows()] == [1]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("0123abcd-x.png", "x.txt"),
        ("x.png", "0123abcd-x.txt"),
        ("x_png.rf.00ff.png", "x.txt"),
        ("M\u00fcller.png", "Mu\u0308ller.txt"),
        ("X.png", "x.txt"),
        ("a b.png", "a%20b.txt"),
    ],
)
def test_label_files_of_another_spelling(folder, image, label):
    (folder / "images/train/b.png").rename(folder / "images/train" / image)
    (folder / "labels/train" / label).write_text(f"1 {SQUARE}\n")
    dataset, found = notes(folder)
    assert sorted(len(row["segments"]) for row in dataset.rows()) == [1, 2]
    assert len(found) == 2
    assert found[0].startswith("other-name: 1 images go with a label file whose name is spelled otherwise")


def test_where_two_label_files_may_be_meant_neither_is(folder):
    (folder / "images/train/b.png").rename(folder / "images/train/0123abcd-x.png")
    for name in ("x.txt", "fedc3210-x.txt"):
        (folder / "labels/train" / name).write_text(f"1 {SQUARE}\n")
    dataset, found = notes(folder)
    assert sorted(len(row["segments"]) for row in dataset.rows()) == [0, 2]
    assert [text.partition(":")[0] for text in found] == ["unlabelled-image", "lost-labels", "four-corners"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ("names: {0: 'no', 1: 1e5}", ["no", "1e5"]),
        ("names:\n  - ~\n  - 0x1F", ["~", "0x1F"]),
        ("names: [null, 2020-01-01]", ["null", "2020-01-01"]),
        ("nc: 2", ["class_0", "class_1"]),
    ],
)
def test_names_are_the_texts_of_the_file(folder, settings, names):
    (folder / "data.yaml").write_text(f"train: images/train\n{settings}\n")
    assert [category.name for category in read(folder).categories] == names


@pytest.mark.parametrize(
    ("settings", "split"),
    [
        ("train: ../images/train", "train"),
        ("path: ../datasets/set\ntrain: images/train", "train"),
        ("path: datasets/set\ntrain: images/train", "train"),
        ("path: /home/someone/set\ntrain: images/train", "train"),
        ("path: D:\\set\ntrain: .\\images\\train", "train"),
        ("train: /home/someone/set/images/train", "train"),
        ("train: C:/set/images/train", "train"),
        ("validation: images/train", "val"),
    ],
)
def test_paths_that_are_not_there_as_written(folder, settings, split):
    (folder / "data.yaml").write_text(f"{settings}\nnames: [ball, crate]\n")
    dataset, found = notes(folder, split=split)
    assert dataset.table.num_rows == 2
    assert ("other-name" in found[0]) == ("validation" not in settings)


def test_a_folder_of_datasets_beside_it_and_the_working_directory(tmp_path, folder, monkeypatch):
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml/data.yaml").write_text("path: set\ntrain: images/train\nnames: [ball, crate]\n")
    shutil.copytree(folder / "images", tmp_path / "datasets/set/images")
    shutil.copytree(folder / "labels", tmp_path / "datasets/set/labels")
    uris = read(tmp_path / "yaml").table["uri"].to_pylist()
    assert uris == [f"{tmp_path}/datasets/set/images/train/{name}.png" for name in "ab"]
    shutil.copytree(tmp_path / "datasets", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")  # where Ultralytics looks first
    assert read(tmp_path / "yaml").table["uri"].to_pylist()[0] == f"{tmp_path}/here/set/images/train/a.png"


def test_lists_with_names_of_another_machine(folder):
    names = ["/home/x/set/images/train/a.png", "data\\images\\val\\c.png", "./images/train/b.png"]
    (folder / "list.txt").write_text("\n".join(names))
    (folder / "data.yaml").write_text("train: list.txt\nnames: [ball, crate]\n")
    dataset, found = notes(folder)
    assert [Path(uri).name for uri in dataset.table["uri"].to_pylist()] == ["a.png", "b.png", "c.png"]
    assert found[0].startswith("other-name: 2 of 3 names are read as those of files that are there")


def test_masks_of_classes_are_no_outlines(folder):
    (folder / "data.yaml").write_text("train: images/train\nmasks_dir: masks\nnames: [ball, crate]\n")
    with pytest.raises(
        UsageError, match=r"'masks_dir' is 'masks': these are masks of classes.*data.format=semantic-png"
    ):
        read(folder)
