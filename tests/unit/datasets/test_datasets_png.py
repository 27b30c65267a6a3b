"""Semantic and instance PNGs of every kind, made by hand."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.files import indices_of, open_mask
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import notes_to
from m2f_batch.vision.masks.rle import decode_mask

VALUES = np.array([[0, 1, 1, 2], [0, 0, 255, 2]], np.uint8)


def mode(values: np.ndarray, name: str) -> Image.Image:
    if name == "P":
        image = Image.fromarray(values)
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([(31 * i + 7) % 256 for i in range(768)])
        return image
    return Image.fromarray(values.astype(np.uint16) if name == "I;16" else values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/a.jpg, images/deep/b.jpg and their masks, of which b is a palette PNG."""
    for name in ("images/deep", "masks/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        Image.new("RGB", (4, 2)).save(tmp_path / "images" / name)
    mode(VALUES, "L").save(tmp_path / "masks" / "a.png")
    mode(VALUES % 255, "P").save(tmp_path / "masks" / "deep" / "b.png")
    return tmp_path


def read(folder: Path, form: str = "semantic-png", annotations: str = "masks", **options: Any) -> Dataset:
    masks = None if (folder / annotations).is_dir() else str(folder / "masks")
    return read_dataset(form, str(folder / annotations), str(folder / "images"), masks, **options)


def maps(dataset: Dataset) -> list[dict[int, np.ndarray]]:
    """Masks by the dataset's own category id, -1 for what is ignored."""
    found = []
    for row in dataset.rows():
        size = row["height"], row["width"]
        of = {dataset.categories[s["category"]].id: decode_mask(s["counts"], size) for s in row["segments"]}
        found.append(of | ({} if row["ignored"] is None else {-1: decode_mask(row["ignored"], size)}))
    return found


def check(found: dict[int, np.ndarray], classes: np.ndarray) -> None:
    assert found.keys() == {*np.unique(classes).tolist()}
    for number, mask in found.items():
        np.testing.assert_array_equal(mask, classes == number)


def test_ignore_index_and_classes_without_names(folder):
    dataset = read(folder, ignore_index=255)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(i, f"class {i}", False) for i in range(3)]
    assert dataset.table["uri"].to_pylist() == [f"{folder}/images/a.jpg", f"{folder}/images/deep/b.jpg"]
    assert dataset.table["image_id"].to_pylist() == [1, 2]
    first, second = maps(dataset)
    check(first, np.where(VALUES == 255, -1, VALUES.astype(int)))
    check(second, VALUES.astype(int) % 255)


def test_reduced_labels_as_transformers_reduces_them(folder):
    dataset = read(folder, ignore_index=255, do_reduce_labels=True)
    reduced = VALUES.astype(int).copy()
    reduced[reduced == 0] = 255
    reduced -= 1
    reduced[reduced == 254] = 255
    check(maps(dataset)[0], np.where(reduced == 255, -1, reduced))
    assert [c.name for c in dataset.categories] == ["class 0", "class 1"]


def test_an_unexplained_255_is_never_a_class(folder):
    with pytest.raises(UsageError, match=r"masks/a.png: has pixels of 255.*data.ignore_index to 255"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "sky\ngrass\nball\n"),
        ("names.json", '["sky", "grass", "ball"]'),
        ("names.json", '{"id2label": {"0": "sky", "1": "grass", "2": "ball"}}'),
        ("names.yaml", "classes: {0: sky, 1: grass, 2: ball}"),
        ("names.yml", "- sky\n- grass\n- ball\n"),
    ],
)
def test_names_of_classes(folder, name, text):
    (folder / name).write_text(text)
    dataset = read(folder, annotations=name, ignore_index=255)
    assert [(c.id, c.name) for c in dataset.categories] == [(0, "sky"), (1, "grass"), (2, "ball")]


def test_names_with_gaps_keep_their_ids_and_the_ignored_one_is_no_class(folder):
    (folder / "names.json").write_text('{"0": "unlabelled", "1": "grass", "2": "ball", "255": "edge"}')
    dataset = read(folder, annotations="names.json", ignore_index=0)
    assert [c.id for c in dataset.categories] == [1, 2, 255]
    check(maps(dataset)[0], np.where(VALUES == 0, -1, VALUES.astype(int)))


def test_names_count_after_labels_are_reduced(folder):
    (folder / "names.txt").write_text("grass\nball\n")
    dataset = read(folder, annotations="names.txt", ignore_index=255, do_reduce_labels=True)
    check(maps(dataset)[0], np.where(VALUES == 255, -1, VALUES.astype(int) - 1))


def test_a_value_without_a_name(folder):
    (folder / "names.txt").write_text("sky\ngrass\n")
    with pytest.raises(UsageError, match=r"masks/a.png: has pixels of \[2\], and the 2 named classes are 0 to 1"):
        read(folder, annotations="names.txt", ignore_index=255)


@pytest.mark.parametrize(
    "text", ["{}", '{"a": "b"}', '{"0": true}', '{"0": null}', "[]", '"x"', '{"1": "a", "01": "b"}']
)
def test_names_that_are_none(folder, text):
    (folder / "names.json").write_text(text)
    with pytest.raises(UsageError, match=r"data.train: .*names.json"):
        read(folder, annotations="names.json", ignore_index=255)


def test_masks_among_the_images(tmp_path):
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg")
    mode(VALUES % 255, "L").save(tmp_path / "a.png")
    dataset = read_dataset("semantic-png", str(tmp_path))
    assert dataset.table["uri"].to_pylist() == [f"{tmp_path}/a.jpg"]


def test_masks_and_images_without_each_other(folder):
    Image.new("RGB", (4, 2)).save(folder / "images" / "c.png")
    heard: list[str] = []
    with notes_to(heard.append):
        assert read(folder, ignore_index=255).table.num_rows == 2
    assert "1 of 3 images have no mask and are left out (c)" in "".join(heard)
    mode(VALUES, "L").save(folder / "masks" / "d.png")
    with pytest.raises(UsageError, match=r"masks/d.png: has no image of its name"):
        read(folder, ignore_index=255)
    found: list[Finding] = []
    assert read(folder, ignore_index=255, report=found.append).table.num_rows == 2
    assert [finding.kind for finding in found] == ["missing-image", "unlabelled-image"]


def test_masks_that_cannot_be_read(folder):
    Image.new("RGB", (4, 2), (0, 0, 9)).save(folder / "masks" / "a.png")
    with pytest.raises(UsageError, match=r"masks/a.png: .*mode RGB; wanted one channel, .*with data.palette="):
        read(folder)
    data = (folder / "masks" / "a.png").read_bytes()
    (folder / "masks" / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"masks/a.png: .*cannot be read as PNG"):
        read(folder)


def test_a_folder_without_masks_and_a_class_without_a_pixel(tmp_path, folder):
    with pytest.raises(UsageError, match=r"data.train_masks: .*has no PNG"):
        read_dataset("semantic-png", str(folder / "images"))
    with pytest.raises(UsageError, match=r"data.train_masks: .*is no folder of masks"):
        read_dataset("semantic-png", str(folder / "none.json"))
    for name in ("a.png", "deep/b.png"):
        mode(np.zeros((2, 4), np.uint8), "L").save(folder / "masks" / name)
    with pytest.raises(UsageError, match="none of 2 images has an object, or a pixel of a class"):
        read(folder, ignore_index=0)


@pytest.mark.parametrize(
    ("bits", "palette"),
    [(bits, palette) for bits in (1, 2, 4, 8, 16) for palette in (False, True) if bits + palette < 17],
)
def test_the_values_of_a_png_are_those_in_the_file(tmp_path, bits, palette):
    """Written with zlib alone, since Pillow scales gray of 2 and 4 bits."""
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**bits, (5, 7))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b""
    for line in values:
        text = "".join(f"{value:0{bits}b}" for value in line)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + int(text, 2).to_bytes(len(text) // 8)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, bits, 3 if palette else 0, 0, 0, 0))
    if palette:
        data += chunk(b"PLTE", rng.bytes(3 * 2**bits))
    data += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(data)
    np.testing.assert_array_equal(indices_of(*open_mask(str(tmp_path / "x.png"))), values)


# ---- instances


NUMBERS = np.array([[0, 300, 300, 2], [0, 0, 9, 2]], np.uint16)


@pytest.fixture
def objects(folder: Path) -> Path:
    mode(NUMBERS, "I;16").save(folder / "masks" / "a.png")
    mode(NUMBERS % 256, "I;16").save(folder / "masks" / "deep" / "b.png")
    return folder


def test_objects_of_one_class(objects):
    dataset = read(objects, "instance-png", ignore_index=9)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(1, "object", True)]
    row, _ = dataset.rows()
    masks = [decode_mask(s["counts"], (2, 4)) for s in row["segments"]]
    for mask, number in zip(masks, (2, 300), strict=True):
        np.testing.assert_array_equal(mask, number == NUMBERS)
    np.testing.assert_array_equal(decode_mask(row["ignored"], (2, 4)), NUMBERS == 9)


MAPS = [
    {"a.png": {"2": "cell", "9": "ball", "300": "cell"}, "deep/b.png": {"2": "cell", "9": "cell", "44": "ball"}},
    {"a": {"2": "cell", "9": "ball", "300": "cell"}, "b": {"2": "cell", "9": "cell", "44": "ball"}},
    {
        "categories": [{"id": 1, "name": "ball"}, {"id": 2, "name": "cell"}],
        "images": {"a.jpg": {"2": 2, "9": 1, "300": 2}, "b.png": {"2": 2, "9": 2, "44": 1}},
    },
]


@pytest.mark.parametrize("document", MAPS)
def test_the_id_map_in_its_forms(objects, document):
    (objects / "map.json").write_text(json.dumps(document))
    dataset = read(objects, "instance-png", "map.json")
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "ball"), (2, "cell")]
    first, second = dataset.rows()
    assert [s["category"] for s in first["segments"]] == [1, 0, 1]
    assert [s["category"] for s in second["segments"]] == [1, 1, 0]


def test_objects_and_map_that_do_not_agree(objects):
    document = {"a": {"2": "cell", "300": "cell", "7": "cell"}, "b": MAPS[1]["b"]}
    (objects / "map.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"masks/a.png: has objects \[9\], which the id map does not name"):
        read(objects, "instance-png", "map.json")
    found: list[Finding] = []
    read(objects, "instance-png", "map.json", report=found.append)
    assert [finding.kind for finding in found] == ["unknown-value", "missing-segment"]
    assert "object 7 of the id map" in found[1].text


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"a": 3},
        {"a": {"x": "cell"}},
        {"a": {}},
        {"categories": [{"id": 1, "name": "c"}], "images": {"a": {"1": 2}}},
    ],
)
def test_an_id_map_that_is_none(objects, document):
    (objects / "map.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"data.train: .*map.json"):
        read(objects, "instance-png", "map.json")
