"""Case 30: a run that found exactly what is annotated, against ground truths whose names and ids are written otherwise.

Each gives the right figures, or exit code 2 with the reason; never 0.000, 0.667 or an empty file without a word.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.hand_made import Picture, make_run

from m2f_batch.cli import main

LABELS = ("ball", "crate", "star")


@pytest.fixture
def case(shared_cases, tmp_path, capsys) -> Path:
    """A copy of the case, and beside it ``run``: its annotations as rows of a perfect model, in PNG files."""
    folder = Path(shutil.copytree(shared_cases / "30-evaluate-pairings", tmp_path / "case"))
    truth = COCO(str(folder / "gt.json"))
    capsys.readouterr()
    pictures = [
        Picture(
            str(folder / "photos" / image["file_name"]),
            (image["height"], image["width"]),
            [
                (one["category_id"] - 1, 0.9, truth.annToMask(one).astype(bool))
                for one in truth.loadAnns(truth.getAnnIds(number))
            ],
        )
        for number, image in truth.imgs.items()
    ]
    make_run(
        tmp_path / "run",
        [pictures],
        labels=LABELS,
        dataset_ids=(1, 2, 3),
        stuff_ids=frozenset(),
        task="instance",
        input_uri=str(folder / "photos"),
    )
    return folder


def evaluated(case: Path, name: str, *options: str) -> tuple[int, dict[str, Any]]:
    report = case.parent / "report.json"
    run, truth = str(case.parent / "run"), str(case / name)
    code = main(
        ["evaluate", run, "--ground-truth", truth, "--images", str(case / "photos"), "--json", str(report), *options]
    )
    return code, json.loads(report.read_text()) if code == 0 else {}


def exported(case: Path, name: str, form: str = "coco-results") -> tuple[int, Any]:
    out = case.parent / "out.json"
    out.unlink(missing_ok=True)
    code = main(["export", str(case.parent / "run"), str(out), "--format", form, "--ground-truth", str(case / name)])
    assert out.exists() == (code == 0)
    return code, json.loads(out.read_text()) if code == 0 else None


# file: the images that it and the run have in common, and what is said beside the figures
PERFECT = {
    "gt.json": (4, ""),
    "gt_subset.json": (2, "2 rows are of images that are not annotated, and are left out"),
    "gt_id0.json": (4, "annotation ids are 0 or come twice (0)"),
    "gt_upper.json": (4, "the label 'crate' is taken for the category 'CRATE'"),
    "gt_onecase.json": (4, "the label 'crate' is taken for the category 'Crate'"),
    "gt_dupname_before.json": (4, "ball"),
    "gt_jpg.json": (4, "img0.jpg"),
    "gt_backslash.json": (4, "val\\\\img0.png"),
    "gt_lsprefix.json": (4, "00000001_img0.png"),
    "gt_url.json": (4, ""),
    "gt_strids.json": (4, ""),
}


@pytest.mark.parametrize("name", PERFECT)
def test_the_right_figures_whatever_the_names(name, case, capsys):
    code, report = evaluated(case, name)
    assert code == 0
    images, says = PERFECT[name]
    assert report["images"] == images
    assert report["metrics"]["AP"] == pytest.approx(1, abs=1e-9)
    assert {entry["name"].lower(): entry["AP"] for entry in report["classes"] if entry["AP"] is not None} == {
        "ball": pytest.approx(1),
        "crate": pytest.approx(1),
        "star": pytest.approx(1),
    }
    said = capsys.readouterr()
    assert says in said.out + said.err


def test_a_name_twice_is_the_annotated_category_wherever_it_stands(case, capsys):
    """An unused second ``ball`` gave 0.667 where it came last."""
    tree = json.loads((case / "gt_dupname_before.json").read_text())
    tree["categories"].append(tree["categories"].pop(0))
    (case / "gt_dupname_after.json").write_text(json.dumps(tree))
    for name in ("gt_dupname_before.json", "gt_dupname_after.json"):
        code, report = evaluated(case, name)
        assert (code, report["metrics"]["AP"]) == (0, pytest.approx(1, abs=1e-9))
        code, found = exported(case, name)
        assert (code, {entry["category_id"] for entry in found}) == (0, {1, 2, 3})
    tree["annotations"][-3]["category_id"] = 9  # both have annotations
    (case / "gt_dupname_both.json").write_text(json.dumps(tree))
    capsys.readouterr()
    for command in (evaluated, exported):
        assert command(case, "gt_dupname_both.json")[0] == 2
        assert "ball" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gt_crowd.json", "CVAT writes brush masks so: --crowd-as-object takes them as objects"),
        ("gt_empty.json", "none of 4 images has an object, or a pixel of a class"),
        ("gt_hwswap.json", "is 72x96, but its annotations are of 96x72 (height x width)"),
    ],
)
def test_what_cannot_be_measured_is_2_with_the_reason(name, told, case, capsys):
    assert evaluated(case, name)[0] == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err


def test_crowds_that_are_objects_are_measured_so(case):
    code, report = evaluated(case, "gt_crowd.json", "--crowd-as-object")
    assert (code, report["metrics"]["AP"]) == (0, pytest.approx(1, abs=1e-9))


def test_nothing_in_common_is_2_and_no_file(case, capsys):
    tree = json.loads((case / "gt.json").read_text())
    for image in tree["images"]:
        image["file_name"] = f"other{image['id']}.png"
    (case / "gt_other.json").write_text(json.dumps(tree))
    for form in ("coco", "coco-results"):
        assert exported(case, "gt_other.json", form) == (2, None)
        assert "have no image in common ('other1.png', ... and " in capsys.readouterr().err
    assert evaluated(case, "gt_other.json")[0] == 2
    assert "have no image in common" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in PERFECT if name not in ("gt_strids.json", "gt_id0.json")])
def test_pycocotools_gives_the_exported_results_full_marks(name, case, capsys):
    """Its own loader and evaluation on the file as it is: image and category ids are those of the ground truth."""
    code, results = exported(case, name)
    assert (code, {*results[0]}) == (0, {"image_id", "category_id", "segmentation", "score"})
    truth = COCO(str(case / name))
    evaluation = COCOeval(truth, truth.loadRes(str(case.parent / "out.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1, abs=1e-9)


def test_ids_that_are_texts_stay_texts(case):
    _, results = exported(case, "gt_strids.json")
    assert {entry["image_id"] for entry in results} == {"1", "2", "3", "4"}


def test_sizes_of_exported_results_are_those_of_masks_not_of_boxes(tmp_path, capsys):
    """A thin ring of 1,200 pixels in a box of 10,000: with a ``bbox`` pycocotools takes the found one for large."""
    rows, columns = np.mgrid[:120, :120]
    distance = np.hypot(rows - 60, columns - 60)
    ring = (distance <= 50) & (distance > 46)
    near = (distance <= 50) & (distance > 45)  # found a little thicker
    rng = np.random.default_rng(0)
    noise = rng.random((120, 120)) < 0.2
    found = [(0, 0.9, near), (0, 0.6, noise)]
    run = make_run(tmp_path / "run", [[Picture("/photos/a.png", (120, 120), found)]], task="instance")
    rle = coco_mask.encode(np.asfortranarray(ring.astype(np.uint8)))
    rle["counts"] = rle["counts"].decode()
    annotation = {"id": 1, "image_id": 1, "category_id": 17, "segmentation": rle, "iscrowd": 0}
    annotation |= {"area": int(ring.sum()), "bbox": [10, 10, 101, 101]}
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "height": 120, "width": 120}],
        "annotations": [annotation],
        "categories": [{"id": 17, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(tree))
    out = tmp_path / "out.json"
    assert (
        main(["export", run.uri, str(out), "--format", "coco-results", "--ground-truth", str(tmp_path / "truth.json")])
        == 0
    )
    truth = COCO(str(tmp_path / "truth.json"))
    results = truth.loadRes(str(out))
    assert [one["area"] for one in results.loadAnns(results.getAnnIds())] == [near.sum(), noise.sum()]
    with_boxes = [
        entry | {"bbox": coco_mask.toBbox(entry["segmentation"]).tolist()} for entry in json.loads(out.read_text())
    ]
    assert truth.loadRes(with_boxes).anns[1]["area"] == 101 * 101  # what the key would have done

    evaluation = COCOeval(truth, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    report = tmp_path / "report.json"
    assert main(["evaluate", run.uri, "--ground-truth", str(tmp_path / "truth.json"), "--json", str(report)]) == 0
    ours = json.loads(report.read_text())["metrics"]
    figures = [ours[name] if ours[name] is not None else -1 for name in ("AP", "APs", "APm", "APl")]
    assert figures == pytest.approx(evaluation.stats[[0, 3, 4, 5]].tolist(), abs=1e-12)
