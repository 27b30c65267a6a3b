"""``m2f-batch convert``: what it writes and says, and that nothing is written where it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from m2f_batch.cli import main
from m2f_batch.datasets.convert import common_folder
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.storage.places import open_store
from m2f_batch.vision.masks.rle import encode_mask

SIZE = (24, 32)
PATIENTS = 4


def disc(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(rows - y, columns - x) <= radius


RING = disc(12, 12, 9) & ~disc(12, 12, 4)
PAIR = disc(6, 6, 4) | disc(18, 25, 5)
MASKS = [disc(10, 10, 6), RING, PAIR, RING & disc(0, 12, 14)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """20 photos of 4 patients as COCO: image n has mask n % 4 of category (7, 9, 40)[n % 3]; every fifth a crowd."""
    images, annotations = [], []
    for number in range(20):
        name = f"p{number % PATIENTS}/{number:02d}.png"
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (number, 0, 0)).save(tmp_path / "photos" / name)
        images.append({"id": 100 + number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        if number != 19:
            counts = encode_mask(MASKS[number % 4]).counts
            rle = {"size": [*SIZE], "counts": counts}
            crowd = int(number % 5 == 4)
            annotations.append(
                {"id": number + 1, "image_id": 100 + number, "category_id": (7, 9, 40)[number % 3], "segmentation": rle}
                | {"iscrowd": crowd}
            )
    images[0]["ignored"] = {"size": [*SIZE], "counts": encode_mask(disc(20, 28, 3)).counts}
    categories = [{"id": 7, "name": "ball"}, {"id": 9, "name": "crate"}, {"id": 40, "name": "meadow", "isthing": 0}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "source.json").write_text(json.dumps(tree))
    return tmp_path


def convert(folder: Path, dest: str, *options: str, to: str = "coco") -> int:
    arguments = [str(folder / "source.json"), str(folder / dest), "--from", "coco", "--to", to]
    return main(["convert", *arguments, "--images", str(folder / "photos"), *options])


def everything(file: Path, images: Path) -> dict[str, Any]:
    dataset = read_dataset("coco", str(file), str(images))
    return {"categories": dataset.categories, "rows": {row["uri"]: row for row in dataset.rows()}}


def test_coco_to_coco_loses_nothing(source, capsys):
    assert convert(source, "out.json") == 0
    before, after = (everything(source / name, source / "photos") for name in ("source.json", "out.json"))
    assert after == before  # ids, sizes, crowds, ignored pixels, things; every RLE to the byte
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "train 20 images (1 without labels), 19 labels of 3 of 3 categories"
    assert said[2] == f"images stay where they are: data.train_images: {source}/photos"
    assert "1 images have ignored pixels" in said[3]


def test_the_coco_json_is_one_that_pycocotools_takes(source):
    convert(source, "out.json")
    oracle = COCO(str(source / "out.json"))
    annotations = oracle.loadAnns(oracle.getAnnIds())
    assert [annotation["id"] for annotation in annotations] == [*range(1, 20)]
    for annotation in annotations:
        mask = oracle.annToMask(annotation)
        code = coco_mask.encode(np.asfortranarray(mask))
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(code).tolist()
        np.testing.assert_array_equal(mask.astype(bool), MASKS[(annotation["image_id"] - 100) % 4])
    assert sum(annotation["iscrowd"] for annotation in annotations) == 3


def sides_of(folder: Path, dest: str) -> tuple[set[str], set[str]]:
    train, val = (
        {image["file_name"] for image in json.loads((folder / dest / f"{side}.json").read_text())["images"]}
        for side in ("train", "val")
    )
    assert not train & val
    assert len(train | val) == 20
    return train, val


def test_a_seeded_split(source, capsys):
    for dest, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert convert(source, dest, "--split", "0.8", "--seed", seed) == 0
    a, b, c = (sides_of(source, dest) for dest in "abc")
    assert a == b != c
    assert (len(a[0]), len(a[1])) == (16, 4)
    said = capsys.readouterr().out
    assert "train 16 images" in said
    assert "val   4 images" in said


def test_labels_on_one_side_only_are_said(source, capsys):
    tree = json.loads((source / "source.json").read_text())
    tree["annotations"] = tree["annotations"][:1]
    (source / "source.json").write_text(json.dumps(tree))
    convert(source, "a", "--split", "0.9")
    assert "only in " in (said := capsys.readouterr().out)
    assert ": ball" in said


@pytest.mark.parametrize("group_by", ["folder", r"pattern:/(p\d)/", "column:patient"])
@pytest.mark.parametrize("stratify", [False, True])
def test_a_grouped_split_keeps_each_patient_on_one_side(source, group_by, stratify):
    table = source / "groups.csv"
    table.write_text("file_name,patient\n" + "".join(f"{n:02d}.png,{n % PATIENTS}\n" for n in range(20)))
    options = ["--groups", str(table)] if group_by.startswith("column") else []
    options += ["--stratify"] if stratify else []
    assert convert(source, "out", "--split", "0.75", "--group-by", group_by, *options) == 0
    train, val = ({name.split("/")[0] for name in side} for side in sides_of(source, "out"))
    assert len(train) == 3
    assert len(val) == 1
    assert not train & val


def test_yolo_holds_every_mask(source, capsys):
    assert convert(source, "out", "--split", "0.5", to="yolo") == 0
    settings = yaml.safe_load((source / "out/data.yaml").read_text())
    assert settings == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "ball", 1: "crate", 2: "meadow"},
    }
    before = everything(source / "source.json", source / "photos")["rows"]
    for side in ("train", "val"):
        dataset = read_dataset("yolo", str(source / "out/data.yaml"), split=side)
        for row in dataset.rows():
            name = row["uri"].removeprefix(f"{source}/out/images/{side}/")
            original = before[f"{source}/photos/{name}"]
            assert Path(row["uri"]).read_bytes() == (source / "photos" / name).read_bytes()
            assert row["segments"] == [segment for segment in original["segments"] if not segment["iscrowd"]]
            before.pop(f"{source}/photos/{name}")
    assert before == {}
    said = capsys.readouterr().out
    assert "masks have several parts" in said
    assert "yolo: every mask reads back with IoU 1 here" in said
    assert "yolo: 3 crowds are left out" in said
    assert "yolo: 1 images have ignored pixels" in said


def test_a_mask_of_one_part_is_one_plain_outline(source):
    convert(source, "out", to="yolo")
    words = (source / "out/labels/train/p0/00.txt").read_text().split()
    points = [float(word) * SIZE[1 - i % 2] for i, word in enumerate(words[1:])]
    code = coco_mask.frPyObjects([points], *SIZE)[0]
    np.testing.assert_array_equal(coco_mask.decode(code).astype(bool), MASKS[0])


def test_what_a_plain_outline_would_lose_is_measured(source, capsys):
    """Of a ring its hole, of a pair its smaller part."""
    convert(source, "out", to="yolo")
    rings, pairs = RING.sum() / disc(12, 12, 9).sum(), disc(18, 25, 5).sum() / PAIR.sum()
    used = [n for n in range(19) if n % 5 != 4]
    lossy = [(rings, pairs)[n % 4 - 1] for n in used if n % 4 in (1, 2)]
    said = capsys.readouterr().out
    assert (
        f"{sum(n % 4 == 2 for n in used)} masks have several parts and {sum(n % 4 == 1 for n in used)} have holes"
        in said
    )
    assert f"IoU of {np.mean(lossy):.3f} on average, {min(lossy):.3f} at worst" in said


REFUSED = [
    (["--split", "1.5"], "--split: must be the share"),
    (["--seed", "3"], "--seed: goes with --split"),
    (["--stratify"], "--stratify: goes with --split"),
    (["--group-by", "folder"], "--group-by: goes with --split"),
    (["--split", "0.5", "--groups", "x.csv"], "--groups: goes with --group-by"),
    (["--split", "0.5", "--group-by", "patient"], "--group-by: 'patient' is not known"),
    (["--ignore-index", "3"], "--ignore-index: only for"),
    (["--to", "voc"], "--to: 'voc' is not known; allowed: coco, yolo"),
    (["--from", "voc"], "--from: 'voc' is not known"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_a_refused_command_writes_nothing(source, capsys, options, text, to):
    assert convert(source, "out", *options, to=to) == 2
    assert text in capsys.readouterr().err
    assert not (source / "out").exists()


def test_nothing_is_overwritten(source, capsys):
    for to in ("coco", "yolo"):
        (source / to).mkdir()
        (source / to / "annotations.json").write_text("mine")
        assert convert(source, to, to=to) == 2
        assert "DEST" in capsys.readouterr().err
        assert (source / to / "annotations.json").read_text() == "mine"
    assert convert(source, "out.json", "--split", "0.5") == 2
    assert "is one file, and --split writes two" in capsys.readouterr().err


def test_yolo_needs_its_images(source, capsys):
    (source / "photos/p0/00.png").unlink()
    assert convert(source, "out", to="yolo") == 2
    assert "1 of 20 images are not there" in capsys.readouterr().err
    assert not (source / "out").exists()


def test_two_images_of_one_stem_cannot_be_yolo(source, capsys):
    tree = json.loads((source / "source.json").read_text())
    tree["images"][1]["file_name"] = "p0/00.jpg"
    (source / "source.json").write_text(json.dumps(tree))
    assert convert(source, "out", to="yolo") == 2
    assert "would share one label file" in capsys.readouterr().err


def test_common_folders():
    assert common_folder(["/a/b/x", "/a/b/c/y"]) == "/a/b"
    assert common_folder(["/x", "/a/y"]) == "/"
    assert common_folder(["s3://b/k/x", "s3://b/l/y"]) == "s3://b"
    assert common_folder(["s3://b/x", "s3://c/x"]) == ""
    assert common_folder(["s3://b/x", "/c/x"]) == ""


def test_from_a_bucket_into_a_bucket(source, moto_s3, capsys):
    bucket = moto_s3.uri
    store = open_store(bucket)
    for file in (source / "photos").rglob("*.png"):
        store.upload(file, f"{bucket}/photos/{file.relative_to(source / 'photos')}")
    store.upload(source / "source.json", f"{bucket}/source.json")
    options = ["--from", "coco", "--images", f"{bucket}/photos", "--split", "0.5"]
    assert main(["convert", f"{bucket}/source.json", f"{bucket}/yolo", "--to", "yolo", *options]) == 0
    dataset = read_dataset("yolo", f"{bucket}/yolo/data.yaml", split="val")
    assert dataset.table.num_rows == 10
    assert main(["convert", f"{bucket}/yolo/data.yaml", f"{bucket}/c.json", "--from", "yolo", "--to", "coco"]) == 0
    again = read_dataset("coco", f"{bucket}/c.json", f"{bucket}/yolo/images/train")
    assert [*again.rows()] == [*read_dataset("yolo", f"{bucket}/yolo/data.yaml").rows()]
    assert main(["convert", f"{bucket}/none.json", f"{bucket}/d.json", "--to", "coco", *options[:2]]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_path_with_the_name_of_a_key_stays_as_it_is(tmp_path, capsys):
    """Messages of readers name keys, which convert has options for."""
    folder = tmp_path / "data.train data.names"
    folder.mkdir()
    (folder / "set.json").write_text("[]")
    assert main(["convert", str(folder / "set.json"), str(tmp_path / "out"), "--from", "coco", "--to", "coco"]) == 2
    wanted = f"SRC: {str(folder / 'set.json')!r} is no COCO JSON: it has no list 'images'\n"
    assert capsys.readouterr().err == f"m2f-batch convert: {wanted}"
    assert main(["convert", str(folder / "set.json"), str(tmp_path / "out"), "--from", "yolo", "--to", "coco"]) == 2
    assert capsys.readouterr().err.startswith(f"m2f-batch convert: SRC: {str(folder / 'set.json')!r} ")
