"""Annotations of another format: each function of Python says which argument is meant, as it is written there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hand_made import Picture, make_run

import m2f_batch

COCO = {"images": [{"id": 1, "file_name": "a.png", "height": 12, "width": 16}], "annotations": [], "categories": []}
CALLS: dict[str, Callable[[Path, Path], object]] = {
    "dataset": lambda at, place: m2f_batch.finetune(place, at / "out", format="labelme", steps=3),
    "dataset ": lambda at, place: m2f_batch.lint(place, format="labelme"),
    "source": lambda at, place: m2f_batch.convert(place, at / "out", format="labelme", to="yolo"),
    "ground_truth": lambda at, place: m2f_batch.evaluate(at / "run", place, format="labelme"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", [[Picture("/p/a.png", (12, 16))]], task="instance")
    (tmp_path / "train.json").write_text(json.dumps(COCO))
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("train: images\nval: images\nnames: [cat]\n")
    return tmp_path


@pytest.mark.parametrize("argument", CALLS)
def test_the_argument_is_named(argument: str, folder: Path) -> None:
    place = folder / "train.json"
    with pytest.raises(ValueError) as raised:
        CALLS[argument](folder, place)
    assert str(raised.value) == f"{argument.strip()}: {str(place)!r} looks like COCO: give format='coco'"


@pytest.mark.parametrize("argument", CALLS)
def test_the_file_is_named_too(argument: str, folder: Path) -> None:
    place = folder / "yolo"
    with pytest.raises(ValueError) as raised:
        CALLS[argument](folder, place)
    file = str(place / "data.yaml")
    wanted = f"looks like a YOLO dataset: give format='yolo' and its file {file!r}"
    assert str(raised.value) == f"{argument.strip()}: {str(place)!r} {wanted}"


def test_masks_of_classes_in_a_yaml_of_yolo(folder: Path) -> None:
    yaml = folder / "yolo" / "data.yaml"
    yaml.write_text("train: images\nval: images\nmasks_dir: masks\nnames: [cat]\n")
    for call, words in (
        (lambda: m2f_batch.lint(yaml, format="yolo"), ("dataset", "dataset", "names")),
        (lambda: m2f_batch.convert(yaml, folder / "out", format="yolo", to="coco"), ("source", "source", "names")),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        field, masks, names = words
        wanted = f"give format='semantic-png', the folder of masks as {masks} and this file as {names}"
        assert str(raised.value).startswith(f"{field}: ") and str(raised.value).endswith(wanted)


def test_a_yaml_of_a_dataset_is_no_config(folder: Path) -> None:
    yaml = folder / "yolo" / "data.yaml"
    with pytest.raises(ValueError, match=r"it holds train, val, names.*is no config: give it as dataset$"):
        m2f_batch.finetune(yaml, folder / "out", config=yaml, steps=3)
    with pytest.raises(
        ValueError, match=r"^config: is no config of this command \(it holds train, val, names\); known"
    ):
        m2f_batch.segment(folder, folder / "out", model="M", config={"train": "a", "val": "b", "names": ["c"]})
