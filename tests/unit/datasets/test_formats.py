"""One file of ``datasets/formats`` adds a format: commands read, recognize and write it, and help names it."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image
from pycocotools import mask as coco_mask
from support.hand_made import Picture, box_mask, make_run

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import FOLDER, all_formats
from m2f_batch.config.loading import load_config
from m2f_batch.errors import UsageError

# annotations: a file of lines "IMAGE CLASS X Y W H", one for each box
TOY_BOXES = '''
"""Boxes in a text."""

from m2f_batch.datasets.format import Format


def _sniff(look):
    return "toy boxes" if look.data.startswith(b"#toy") else None


def _read(source, report):
    from m2f_batch.datasets import files
    from m2f_batch.datasets.dataset import Category, dataset_of
    from m2f_batch.datasets.findings import Finding
    from m2f_batch.datasets.masks import polygons_rle
    from m2f_batch.datasets.pixel_cap import size_of
    from m2f_batch.storage import uris

    place = source.place
    lines = [line.split() for line in files.read_text(place, "data.train").splitlines()[1:]]
    names = sorted({line[1] for line in lines if len(line) == 6})
    rows = {}
    for number, line in enumerate(lines, 2):
        if len(line) != 6:
            report(Finding("malformed", f"{place}: line {number}", "needs an image, a class and a box"))
            continue
        uri = uris.join(source.images or uris.parent(place), line[0])
        height, width = size = size_of(files.fetch(uri))
        row = rows.setdefault(uri, {"uri": uri, "height": height, "width": width, "segments": []})
        x, y, w, h = map(int, line[2:])
        counts = polygons_rle([[x, y, x + w, y, x + w, y + h, x, y + h]], size)
        row["segments"].append({"category": names.index(line[1]), "iscrowd": False, "counts": counts})
    return dataset_of([Category(n, name, True) for n, name in enumerate(names, 1)], files.numbered(rows.values()))


FORMAT = Format(
    name="toy-boxes", help="toy boxes", extensions=frozenset({"toy"}), sniff_file=_sniff, read=_read
)
'''
# a line for each image, with the names and areas of its segments
TOY_LIST = '''
"""Images and what is on them."""

from m2f_batch.datasets.format import Format


def _write(splits, target):
    for split, images in splits.items():
        left_out = 0
        with (target.staging / split).open("w") as file:
            for image in images.images():
                shown = [f"{images.categories[one.category].name}:{one.area}" for one in image.segments]
                left_out += not shown
                file.write(" ".join([str(image.id), image.name, *shown]) + "\\n")
        yield f"toy: {left_out} images of {split} have nothing on them"


FORMAT = Format(name="toy-list", help="toy list", write=_write, suffix=".txt")
'''


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Adds a file to the folder of formats for the time of a test."""
    folder, own = importlib.import_module(FOLDER), tmp_path / "formats"
    own.mkdir()
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(own)])

    def added(name: str, text: str) -> None:
        (own / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    yield added
    for file in own.glob("*.py"):
        sys.modules.pop(f"{FOLDER}.{file.stem}", None)


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """A file of toy boxes beside its two images."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        noise = np.random.default_rng(len(name) + ord(name[0])).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "set.toy").write_text("#toy\na.png dog 2 3 20 10\na.png cat 30 20 12 12\nb.png cat 0 0 60 40\n")
    return folder / "set.toy"


def test_a_toy_annotation_format_is_one_file(add, boxes, tmp_path, capsys):
    assert main(["lint", str(boxes), "--format", "toy-boxes"]) == 2
    assert "'toy-boxes' is not allowed" in capsys.readouterr().err
    add("toy_boxes", TOY_BOXES)
    assert main(["lint", str(boxes), "--format", "toy-boxes"]) == 0
    assert "clean   2 images to train on, 2 categories: nothing that ruins training" in capsys.readouterr().out
    assert main(["convert", str(boxes), str(tmp_path / "out.json"), "--from", "toy-boxes", "--to", "coco"]) == 0
    tree = json.loads((tmp_path / "out.json").read_text())
    assert [category["name"] for category in tree["categories"]] == ["cat", "dog"]
    found = {(one["image_id"], one["category_id"], *one["bbox"]) for one in tree["annotations"]}
    assert found == {(1, 2, 2.0, 3.0, 20.0, 10.0), (1, 1, 30.0, 20.0, 12.0, 12.0), (2, 1, 0.0, 0.0, 60.0, 40.0)}
    assert all(int(coco_mask.area(one["segmentation"])) == one["area"] for one in tree["annotations"])
    boxes.write_text("#toy\na.png dog 2 3 20 10\nb.png cat\n")
    capsys.readouterr()
    assert main(["lint", str(boxes), "--format", "toy-boxes"]) == 1
    assert "set.toy: line 3: needs an image, a class and a box" in capsys.readouterr().out


def test_a_toy_annotation_format_is_recognized(add, boxes, tmp_path, capsys):
    run = make_run(tmp_path / "run", [[Picture(str(boxes.parent / "a.png"), (40, 60))]], task="instance")
    assert main(["evaluate", run.uri, "--ground-truth", str(boxes)]) == 2
    assert "is in no format that is known" in capsys.readouterr().err
    add("toy_boxes", TOY_BOXES)
    for place, advice in ((boxes, ""), (boxes.parent, f" and its file {str(boxes)!r}")):
        wanted = f"{str(place)!r} looks like toy boxes: give --format toy-boxes{advice}\n"
        assert main(["lint", str(place), "--format", "coco"]) == 2
        assert wanted in capsys.readouterr().err
    assert main(["convert", str(boxes), str(tmp_path / "out"), "--from", "labelme", "--to", "coco"]) == 2
    wanted = f"m2f-batch convert: SRC: {str(boxes)!r} looks like toy boxes: give --from toy-boxes\n"
    assert capsys.readouterr().err == wanted
    mask = box_mask((40, 60), 3, 2, 10, 20)
    run = make_run(
        tmp_path / "run2", [[Picture(str(boxes.parent / "a.png"), (40, 60), [(1, 0.9, mask)])]], task="instance"
    )
    assert main(["evaluate", run.uri, "--ground-truth", str(boxes), "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["format"] == "toy-boxes" and figures["rows"]["without_row"] == 1


def test_a_config_knows_the_keys_of_a_toy_format(add, boxes):
    add("toy_boxes", TOY_BOXES)
    given = ["data.format=toy-boxes", f"data.train={boxes}", "output.uri=out", "train.steps=1"]
    assert load_config(FinetuneConfig, overrides=given).data.format == "toy-boxes"
    with pytest.raises(UsageError, match=r"data.palette: .* does not apply to data.format 'toy-boxes'"):
        load_config(FinetuneConfig, overrides=[*given, "data.palette={a: [1, 2, 3]}"])
    with pytest.raises(UsageError, match=r"data.format: 'toy' is not allowed; allowed: coco, .*"):
        load_config(FinetuneConfig, overrides=["data.format=toy", *given[1:]])


def test_a_toy_export_format_is_one_file(add, tmp_path, capsys):
    mask = box_mask((40, 60), 0, 0, 10, 20)
    pictures = [Picture("/photos/a.jpg", (40, 60), [(0, 0.9, mask), (1, 0.8, mask)]), Picture("/photos/b.jpg")]
    run = make_run(tmp_path / "run", [pictures])
    assert main(["export", run.uri, str(tmp_path / "list.txt"), "--format", "toy-list"]) == 2
    assert "'toy-list' is not known; allowed: coco, coco-results\n" in capsys.readouterr().err
    add("toy_list", TOY_LIST)
    assert main(["export", run.uri, str(tmp_path / "list.txt"), "--format", "toy-list"]) == 0
    assert (tmp_path / "list.txt").read_text() == "1 a.jpg cat:200 dog:200\n2 b.jpg\n"
    said = capsys.readouterr().out
    assert f"{tmp_path}/list.txt: 2 images, 2 segments; " in said
    assert "toy: 1 images of run have nothing on them" in said
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "coco, coco-results, toy-list [coco]" in capsys.readouterr().out
    assert main(["convert", "x", "y", "--from", "toy-list", "--to", "coco"]) == 2  # it is only written
    assert "--from: 'toy-list' is not known; allowed: coco, coco-panoptic" in capsys.readouterr().err


def test_both_toys_work_together(add, boxes, tmp_path, capsys):
    add("toy_boxes", TOY_BOXES)
    add("toy_list", TOY_LIST)
    arguments = ["convert", str(boxes), str(tmp_path / "lists"), "--from", "toy-boxes", "--to", "toy-list"]
    assert main([*arguments, "--split", "0.5"]) == 0
    lines = sorted((tmp_path / f"lists/{split}.txt").read_text() for split in ("train", "val"))
    assert lines == ["1 a.png dog:200 cat:144\n", "2 b.png cat:2400\n"]
    assert "toy: 0 images of train have nothing on them" in capsys.readouterr().out


def test_no_other_file_tells_formats_apart_by_name():
    names = {*all_formats()} | {"coco"}

    def literals(node: ast.AST) -> Iterator[str]:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value in names:
                yield part.value

    found = []
    for file in sorted((PROJECT / "m2f_batch").rglob("*.py")):
        if file.parent == PROJECT / "m2f_batch/datasets/formats":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare | ast.Tuple | ast.List | ast.Set | ast.Dict | ast.MatchValue):
                found += [f"{file.relative_to(PROJECT)}:{node.lineno}: {name}" for name in literals(node)]
    assert found == []
