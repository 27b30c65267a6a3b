"""No command writes its file over what it reads: a run's own files, a ground truth, annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.hand_made import Picture, make_run

from m2f_batch.cli import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one image, and beside it ``gt.json``, which annotates what it found."""
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    picture = Picture(str(tmp_path / "in" / "a.png"), (8, 8), [(0, 0.9, mask)])
    labels = {"labels": ("ball",), "dataset_ids": (1,), "stuff_ids": frozenset[int]()}
    make_run(tmp_path / "run", [[picture]], **labels, task="instance", input_uri=str(tmp_path / "in"))
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]], "area": 16}
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 8}
    tree = {"images": [image], "annotations": [square], "categories": [{"id": 1, "name": "ball"}]}
    (tmp_path / "gt.json").write_text(json.dumps(tree))
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_without_a_format_is_coco(run: Path) -> None:
    assert main(["export", str(run), str(run / "coco.json")]) == 0, "beside the run's own files"
    tree: dict[str, Any] = json.loads((run / "coco.json").read_text())
    assert [image["file_name"] for image in tree["images"]] == ["a.png"] and len(tree["annotations"]) == 1


@pytest.mark.parametrize(
    ("dest", "told"),
    [
        ("run/run.json", "is a part of the run itself; give another place"),
        ("run/_SUCCESS", "is a part of the run itself; give another place"),
        ("run/annotations/x.parquet", "is a part of the run itself; give another place"),
        ("run/../run/_state/x.json", "is a part of the run itself; give another place"),
        ("link/run.json", "is a part of the run itself; give another place"),
        ("gt.json", "is what is read; give another name"),
        ("in/a.png", "is an image of the run; give another name"),
        ("run", "is a folder; give the name of a file in it"),
        ("gt.json/x.json", ": 'TMP/gt.json' is a file; give a folder"),
        ("gt.json/y/x.json", ": 'TMP/gt.json' is a file; give a folder"),
    ],
)
@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_what_is_read_stays(command: str, dest: str, told: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "link").symlink_to(run)
    place, truth = run.parent / dest, ["--ground-truth", str(run.parent / "gt.json")]
    if command == "export":
        field, arguments = "DEST", ["export", str(run), f"{run.parent}/{dest}", *truth]
    else:
        field, arguments = "--json", ["evaluate", str(run), "--json", f"{run.parent}/{dest}", *truth]
    before = files(run.parent)
    assert main(arguments) == 2 and files(run.parent) == before, place
    said = capsys.readouterr().err.replace(str(run.parent), "TMP")
    assert said == f"m2f-batch {command}: {field}: 'TMP/{dest}'{'' if told[0] == ':' else ' '}{told}\n"


def test_only_an_earlier_answer_among_annotations_is_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = run.parent / "labels"
    labels.mkdir()
    (labels / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    (labels / "figures.json").write_text('{"run_id": "x", "metrics": {}}')
    before = files(run.parent)
    for name, told in (("a.json", "is among what is read"), ("figures.json", None), ("new.json", None)):
        arguments = ["evaluate", str(run), "--ground-truth", str(labels), "--json", str(labels / name)]
        assert main([*arguments, "--format", "no-such"]) == 2 and files(run.parent) == before
        said = capsys.readouterr().err
        assert (told in said) if told else ("--json" not in said and "no-such" in said)
    assert main(["lint", str(labels), "--format", "labelme", "--json", str(labels / "a.json")]) == 2
    assert "--json" in capsys.readouterr().err and files(run.parent) == before


def test_nothing_is_written_to_the_web(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "https://example.com/x.json?sig=0"]) == 2
    assert capsys.readouterr().err == (
        "m2f-batch export: DEST: 'https://example.com/x.json?...': nothing can be written to the web; give a folder or "
        "a bucket\n"
    )


@pytest.mark.parametrize(
    ("dest", "told"),
    [("gt.json", " is what is read; give another name"), ("gt.json/x", ": 'TMP/gt.json' is a file; give a folder")],
)
def test_lint_keeps_the_annotations(dest: str, told: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run.parent)
    assert main(["lint", str(run.parent / "gt.json"), "--json", str(run.parent / dest)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and files(run.parent) == before
    assert said.err.replace(str(run.parent), "TMP") == f"m2f-batch lint: --json: 'TMP/{dest}'{told}\n"


@pytest.mark.parametrize("name", ["gt.json", "run/run.json", "run/_state/manifest.parquet", "notes.txt"])
@pytest.mark.parametrize("mistaken", [False, True])
def test_a_result_goes_only_over_an_earlier_one(
    name: str, mistaken: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "notes.txt").write_text("x")
    before, file = files(run.parent), run.parent / name
    arguments = ["evaluate", str(run), "--ground-truth", str(run.parent / "gt.json"), "--result", str(file)]
    if mistaken:
        assert main([*arguments, "--no-such"]) == 2
    else:
        assert main(arguments) == 2
        assert capsys.readouterr().err == (
            f"m2f-batch evaluate: --result: '{file}' holds something else than a result; remove it, or give "
            "another file\n"
        )
    assert files(run.parent) == before


def test_a_result_over_an_earlier_one(run: Path) -> None:
    file = run.parent / "result.json"
    arguments = ["evaluate", str(run), "--ground-truth", str(run.parent / "gt.json"), "--result", str(file)]
    assert main([*arguments, "--metrics", "x"]) == 2 and json.loads(file.read_text())["exit_code"] == 2
    (run.parent / "in").mkdir()
    Image.new("RGB", (8, 8)).save(run.parent / "in" / "a.png")
    assert main([*arguments, "--images", str(run.parent / "in")]) == 0
    assert json.loads(file.read_text())["exit_code"] == 0
