"""YOLO segmentation labels made by hand: where files are looked for, what a line means, what stops the reader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import UsageError
from m2f_batch.vision.rle import decode_mask

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
    return read_dataset("yolo", str(folder / "data.yaml"), **options)  # type: ignore[arg-type]


def first_mask(dataset: Dataset) -> np.ndarray:
    row = next(dataset.rows())
    return decode_mask(row["segments"][0]["counts"], (row["height"], row["width"]))


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_images_labels_and_classes(folder, capsys):
    dataset = read(folder)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(0, "ball", True), (1, "crate", True)]
    a, b = dataset.rows()
    assert (a["uri"], a["image_id"], a["height"], a["width"]) == (f"{folder}/images/train/a.png", 1, HEIGHT, WIDTH)
    assert [segment["category"] for segment in a["segments"]] == [1, 0]
    assert b["segments"] == []
    assert "1 of 2 images have no label file: no objects" in capsys.readouterr().err
    np.testing.assert_array_equal(first_mask(dataset), box(5, 15, 10, 30))


def test_the_other_split_and_other_folders(folder):
    assert read(folder, split="val").table["uri"].to_pylist() == [f"{folder}/images/val/c.png"]
    with pytest.raises(UsageError, match="'test' must be a folder of images"):
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


def test_faults_of_files(folder, capsys):
    (folder / "labels/train/a.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UsageError, match=r"a.txt: .*utf-8"):
        read(folder)
    (folder / "labels/train/a.txt").unlink()
    with pytest.raises(UsageError, match="none of 2 images has an object"):
        read(folder)
    assert f"2 of 2 images have no label file, e.g. '{folder}/labels/train/a.txt'" in capsys.readouterr().err
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
        ("names: [a]", "'train' must be a folder of images"),
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
