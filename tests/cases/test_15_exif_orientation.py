"""Case 15: EXIF orientations that sizes cannot tell are a note with their count."""

import json
import shutil

import pytest
from PIL import Image

from m2f_batch.cli import main


def found(place, tmp_path, *options):
    report = tmp_path / "found.json"
    code = main(["lint", str(place), "--json", str(report), *options])
    return code, {entry["kind"]: entry for entry in json.loads(report.read_text())["findings"]}


@pytest.mark.parametrize(("name", "turn"), [("exif2", 2), ("exif3", 3), ("square6", 6)])
def test_a_note_with_the_count(name, turn, shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "15-exif-undetectable" / name, tmp_path / "case")
    code, kinds = found(folder / "train.json", tmp_path)
    assert (code, [*kinds]) == (0, ["exif-orientation"])
    assert (kinds["exif-orientation"]["count"], kinds["exif-orientation"]["is_fault"]) == (4, False)
    assert f"i0.jpg: has the EXIF orientation {turn}: " in capsys.readouterr().out


def test_where_sizes_can_tell_it_is_the_fault_of_before(shared_cases, tmp_path):
    folder = shutil.copytree(shared_cases / "15-exif-undetectable/exif6", tmp_path / "case")
    code, kinds = found(folder / "train.json", tmp_path)
    assert (code, [*kinds]) == (1, ["exif-size"])
    tree = json.loads((folder / "train.json").read_text())
    for image in tree["images"]:  # annotated as it is shown
        image["height"], image["width"] = image["width"], image["height"]
    for number, one in enumerate(tree["annotations"]):
        one["segmentation"] = [[4, 4, 30 + number, 4, 30 + number, 40, 4, 40]]
        one |= {"bbox": [4, 4, 26 + number, 36], "area": (26 + number) * 36}
    (folder / "train.json").write_text(json.dumps(tree))
    assert "exif-orientation" not in found(folder / "train.json", tmp_path)[1]


def test_yolo_has_no_size_that_could_tell(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    exif = Image.Exif()
    for number, turn in enumerate((1, 6)):
        exif[274] = turn
        Image.linear_gradient("L").resize((96, 72)).save(tmp_path / f"images/{number}.jpg", exif=exif)
        (tmp_path / f"labels/{number}.txt").write_text(f"0 0.1 0.1 0.{number + 5} 0.1 0.5 0.9\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [ball]\n")
    code, kinds = found(tmp_path / "data.yaml", tmp_path, "--format", "yolo")
    assert code == 0
    (example,) = kinds["exif-orientation"]["examples"]
    assert example["where"] == str(tmp_path / "images/1.jpg")
