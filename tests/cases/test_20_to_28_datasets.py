"""Cases 20, 21, 26, 27 and 28 through lint, convert and the plan of a training: what each says, and its exit code."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from pycocotools.coco import COCO

from m2f_batch.cli import main


@pytest.fixture
def case(shared_cases, tmp_path):
    return lambda name: Path(shutil.copytree(shared_cases / name, tmp_path / "case"))


def ran(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def converted(capsys, source: Path, to: str = "coco", *more: str) -> tuple[int, str, str, Path]:
    dest = source.parent / ("out.json" if to == "coco" else "out")
    return *ran(capsys, "convert", source, dest, "--from", "coco", "--to", to, *more), dest


@pytest.mark.parametrize("name", ["train.json", "empty_part.json"])
def test_20_a_part_without_area_is_left_out_and_said(name, case, capsys):
    folder = case("20-coco-one-short-polygon")
    code, out, _ = ran(capsys, "lint", folder / name)
    assert code == 0
    assert "1 parts of masks have fewer than 3 points" in out
    code, _, err, dest = converted(capsys, folder / name)
    assert code == 0
    assert "1 parts of masks have fewer than 3 points" in err
    tree = json.loads((folder / name).read_text())
    for entry in tree["annotations"]:  # as detectron2 has it
        entry["segmentation"] = [part for part in entry["segmentation"] if len(part) >= 6]
    (folder / "oracle.json").write_text(json.dumps(tree))
    theirs, ours = COCO(str(folder / "oracle.json")), COCO(str(dest))
    assert [int(ours.annToMask(one).sum()) for one in ours.anns.values()] == [
        int(theirs.annToMask(one).sum()) for one in theirs.anns.values()
    ]


def test_21_a_category_of_val_that_nothing_shows_is_a_note(case, capsys):
    folder = case("21-val-extra-category")
    places = ("--val", folder / "val.json")
    code, out, _ = ran(capsys, "lint", folder / "train.json", *places)
    assert code == 0
    assert "note    unused-category: 1\n" in out
    assert "val.json: has unused categories that DATASET lacks: person\n" in out
    tree = json.loads((folder / "val.json").read_text())
    person = next(one["id"] for one in tree["categories"] if one["name"] == "person")
    tree["annotations"][0]["category_id"] = person
    (folder / "val.json").write_text(json.dumps(tree))
    code, out, _ = ran(capsys, "lint", folder / "train.json", *places)
    assert code == 1
    assert "fault   unknown-category: 1\n" in out
    command = ("finetune", folder / "train.json", folder / "out", f"--set=data.val={folder}/val.json")
    code, _, err = ran(capsys, *command, "--set=train.steps=1")
    assert code == 2
    assert "has categories that data.train lacks: person" in err


def test_26_an_odd_name_goes_through(case, capsys):
    folder = case("26-one-image-odd-names")
    before = json.loads((folder / "train.json").read_text())
    assert ran(capsys, "lint", folder / "train.json")[0] == 0
    code, _, _, dest = converted(capsys, folder / "train.json")
    tree = json.loads(dest.read_text())
    assert (code, [one["name"] for one in tree["categories"]]) == (0, [one["name"] for one in before["categories"]])
    code, _, _, dest = converted(capsys, folder / "train.json", "yolo")
    names = yaml.safe_load((dest / "data.yaml").read_text())["names"]
    assert (code, [*names.values()]) == (0, [one["name"] for one in before["categories"]])
    assert ran(capsys, "lint", dest / "data.yaml", "--format", "yolo")[0] == 0


def test_27_two_categories_of_one_name(case, capsys):
    folder = case("27-duplicate-category-names")
    code, out, _ = ran(capsys, "lint", folder / "train.json")
    assert code == 1
    assert "fault   duplicate-category-name: 1\n" in out
    code, _, err = ran(capsys, "finetune", folder / "train.json", folder / "out", "--set=train.steps=1")
    assert code == 2
    assert "ball" in err
    for to in ("coco", "yolo"):  # nothing is lost by copying it, and what is wrong is said
        code, out, _, _ = converted(capsys, folder / "train.json", to)
        assert code == 0
        assert (
            "warning: SRC: category 3 ('ball'): has the name of category 1; merge the categories, or rename one" in out
        )


def test_28_nothing_to_learn(case, capsys):
    folder = case("28-nothing-but-background")
    code, out, _ = ran(capsys, "lint", folder / "train.json")
    assert code == 1
    assert "fault   nothing-to-learn: 1\n" in out
    for more in ((), ("--drop-faulty",)):
        code, _, err, dest = converted(capsys, folder / "train.json", "coco", *more)
        assert (code, dest.exists()) == (2, False)
        assert "train.json" in err
    assert ran(capsys, "finetune", folder / "train.json", folder / "out", "--set=train.steps=1")[0] == 2
