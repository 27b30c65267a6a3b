"""Commands with model directories of transformers 4, and with label names that do not fit the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

from m2f_batch.cli import main
from m2f_batch.models.label_sets import label_lines

FOLDER = PROJECT / "tests" / "old_checkpoints"
LINES = '  "id2label": {"0": "cat", "1": "dog", "2": "sky"},\n  "label2id": {"cat": 0, "dog": 1, "sky": 2}\n'
UNNAMED = (
    '  "id2label": {"0": "NAME OF LABEL 0", "1": "NAME OF LABEL 1", "2": "NAME OF LABEL 2"},\n'
    '  "label2id": {"NAME OF LABEL 0": 0, "NAME OF LABEL 1": 1, "NAME OF LABEL 2": 2}\n'
)


@pytest.mark.parametrize(
    ("labels", "told", "lines"),
    [
        ({"1": "cat", "2": "dog", "3": "sky"}, "the ids of id2label must be 0, 1, 2, ... without gaps; write", LINES),
        (["cat", "dog", "sky"], "the ids of id2label must be 0, 1, 2, ... without gaps; write", LINES),
        (None, "names no labels in config.json, but its weights know 3; write", UNNAMED),
        ({}, "the ids of id2label must be 0, 1, 2, ... without gaps; write", UNNAMED),
    ],
)
@pytest.mark.parametrize("command", ["segment", "finetune"])
def test_label_names_that_do_not_fit(
    command: str, labels: Any, told: str, lines: str, one_scene: Path, tmp_path: Path, capsys: Any
) -> None:
    model = tmp_path / "model"
    shutil.copytree(FOLDER / "4.26.1-swin", model)
    config = json.loads((model / "config.json").read_text()) | {"id2label": labels}
    (model / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    source = one_scene
    if command == "finetune":
        source = tmp_path / "train.json"
        box = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32}
        tree = {"images": [{"id": 1, "file_name": "in/a.png", "height": 240, "width": 320}], "annotations": [box]}
        source.write_text(json.dumps(tree | {"categories": [{"id": 1, "name": "cat"}]}))
    arguments = [command, str(source), str(tmp_path / "out"), "--model", str(model)]
    assert main([*arguments, *(["--set", "train.steps=1"] if command == "finetune" else [])]) == 2
    said = capsys.readouterr().err
    assert told in said and said.endswith(f"; write\n{lines}") and not (tmp_path / "out").exists()
    # and with those lines it is right
    written = json.loads("{" + lines + "}")
    (model / "config.json").write_text(json.dumps(config | written))
    from m2f_batch.models.checkpoint import read_checkpoint

    assert len(read_checkpoint(model, "m").id2label) == 3


@pytest.mark.parametrize(
    ("labels", "known", "names"),
    [
        ({"1": "a", "2": "b"}, 2, ["a", "b"]),
        ({"1": "a", "2": "b"}, None, ["a", "b"]),
        ({"1": "a", "2": "b"}, 3, ["NAME OF LABEL 0", "a", "b"]),  # 0 was something that has no name
        ({"0": "a", "2": "c"}, 3, ["a", "NAME OF LABEL 1", "c"]),
        ({"0": "a", "1": "b", "2": "c"}, 2, ["a", "b"]),
        ({"0": 5, "x": "y"}, 1, ["NAME OF LABEL 0"]),
        ({"0": 'quoted "\u00e4"\n'}, 1, ['quoted "\u00e4"\n']),
        ("abc", 1, ["NAME OF LABEL 0"]),
    ],
)
def test_lines_to_write(labels: Any, known: int | None, names: list[str]) -> None:
    lines = label_lines(labels, known)
    assert len(lines.splitlines()) == 2
    assert json.loads("{" + lines + "}") == {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
