"""Cases 03 and 03b: rectangles of four corners and turned ones, as X-AnyLabeling writes them."""

import json
import shutil

import pytest
from pycocotools.coco import COCO

from m2f_batch.cli import main


def test_rectangles_of_four_corners(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "03-xanylabeling-rect4", tmp_path / "case")
    assert main(["convert", str(folder), str(tmp_path / "out.json"), "--from", "labelme", "--to", "coco"]) == 0
    truth = COCO(str(tmp_path / "out.json"))
    found = sorted(
        (truth.loadImgs(one["image_id"])[0]["file_name"], one["bbox"]) for one in truth.dataset["annotations"]
    )
    expected = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        for shape in document["shapes"]:
            xs, ys = zip(*shape["points"], strict=True)
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            expected.append((document["imagePath"], [float(value) for value in box]))
    assert len(found) == 12
    for (name, box), (wanted_name, wanted) in zip(found, sorted(expected), strict=True):
        assert name == wanted_name
        assert box == pytest.approx(wanted, abs=1)
    assert all(one["area"] == one["bbox"][2] * one["bbox"][3] > 0 for one in truth.dataset["annotations"])
    assert main(["lint", str(folder), "--format", "labelme"]) == 0
    assert "fault" not in capsys.readouterr().out


def test_turned_rectangles(shared_cases, tmp_path):
    folder = shared_cases / "03b-xanylabeling-rotation"
    assert main(["convert", str(folder), str(tmp_path / "out.json"), "--from", "labelme", "--to", "coco"]) == 0
    truth = COCO(str(tmp_path / "out.json"))
    assert [one["area"] for one in truth.dataset["annotations"]] == pytest.approx([332, 332], rel=0.02)
