"""Case 44: class PNGs in a label set's own file values, against a run whose rows have label ids."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.hand_made import Picture, make_run

from m2f_batch.cli import main
from m2f_batch.models.label_sets import LABEL_SETS

SETS = {known.name: known for known in LABEL_SETS}
ADE20K, CITYSCAPES, COCO = SETS["ADE20K"], SETS["Cityscapes"], SETS["COCO panoptic"]


def names_of(known):
    marks = dict(known.marks)
    return [marks.get(label, f"name {label}") for label in range(known.size)]


def run_of(folder: Path, known, found: dict[str, np.ndarray], photos: Path) -> str:
    """A semantic run whose rows are ``found``: label ids by photo, int [H, W]."""
    pictures = [
        Picture(
            str(photos / name),
            labels.shape,
            [(int(label), 0.9, labels == label) for label in np.unique(labels)],
        )
        for name, labels in found.items()
    ]
    run = make_run(
        folder,
        [pictures],
        labels=names_of(known),
        dataset_ids=known.dataset_ids,
        stuff_ids=known.stuff_ids,
        task="semantic",
        input_uri=str(photos),
    )
    return run.uri


def evaluated(run: str, labels: Path, *options: str) -> tuple[int, dict]:
    report = labels.parent / "report.json"
    code = main(["evaluate", run, "--ground-truth", str(labels), "--json", str(report), *options])
    return code, json.loads(report.read_text()) if code == 0 else {}


def mean_iou(found, truth, void) -> float:
    """The plain definition: over the classes that the truth holds, without pixels of no class."""
    valid = ~np.isin(truth, void)
    ious = [
        ((found == k) & (truth == k) & valid).sum() / (((found == k) | (truth == k)) & valid).sum()
        for k in np.unique(truth[valid])
    ]
    return float(np.mean(ious))


def test_the_case_is_refused_and_the_option_named(shared_cases, tmp_path, capsys):
    case = Path(shutil.copytree(shared_cases / "44-evaluate-other-numbers", tmp_path / "case"))
    values = np.asarray(Image.open(case / "labels/park0.png")).astype(int)
    found = np.where(values == 0, 0, values - 1)
    found[:, -5:] = 2  # not quite right
    run = run_of(tmp_path / "run", ADE20K, {"park0.jpg": found}, case / "photos")
    assert evaluated(run, case / "labels")[0] == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "taken for label ids, its values give an mIoU of 0." in said.err
    assert "these are ADE20K's own file values: give --do-reduce-labels" in said.err
    code, report = evaluated(run, case / "labels", "--do-reduce-labels")
    wanted = mean_iou(found, np.where(values == 0, -1, values - 1), [-1])
    assert (code, report["metrics"]["mIoU"]) == (0, pytest.approx(wanted, abs=1e-12))
    assert wanted > 0.9


def drawn(folder: Path, values: np.ndarray) -> Path:
    for name in ("photos", "labels"):
        (folder / name).mkdir()
    Image.fromarray(values.astype(np.uint8)).save(folder / "labels/a.png")
    Image.new("RGB", values.shape[::-1]).save(folder / "photos/a.jpg")
    return folder


def test_values_that_can_only_be_the_files_own_are_read_so(tmp_path, capsys):
    """ADE20K's flag is 150 in its files, and no model of it has that label; 0 is no class."""
    values = np.zeros((40, 60), int)
    values[:, 20:], values[:, 40:] = 3, 150
    folder = drawn(tmp_path, values)
    found = np.full((40, 60), 2)
    found[:, 45:] = 149
    run = run_of(tmp_path / "run", ADE20K, {"a.jpg": found}, folder / "photos")
    code, report = evaluated(run, folder / "labels")
    assert (code, report["metrics"]["mIoU"]) == (0, pytest.approx(mean_iou(found, values - 1, [-1]), abs=1e-12))
    assert report["classes"][149]["name"] == "flag"
    assert "the PNGs hold ADE20K's own file values (150 is no label id): read as such" in capsys.readouterr().out
    assert evaluated(run, folder / "labels", "--do-reduce-labels")[1]["metrics"] == report["metrics"]


def test_label_ids_of_cityscapes_are_those_of_its_files(tmp_path, capsys):
    values = np.zeros((40, 60), int)
    for column, value in enumerate((4, 7, 8, 11, 21, 23, 26)):  # 4 is static, no class that is learned
        values[:, 8 * column :] = value
    folder = drawn(tmp_path, values)
    label_of = np.full(34, -1)
    label_of[list(CITYSCAPES.dataset_ids)] = np.arange(19)
    truth = label_of[values]
    found = np.where(truth < 0, 0, truth)
    found[:5] = 13
    run = run_of(tmp_path / "run", CITYSCAPES, {"a.jpg": found}, folder / "photos")
    code, report = evaluated(run, folder / "labels")
    assert (code, report["metrics"]["mIoU"]) == (0, pytest.approx(mean_iou(found, truth, [-1]), abs=1e-12))
    assert "Cityscapes' own file values (26 is no label id)" in capsys.readouterr().out


@pytest.mark.parametrize("shift", [1, -1])
def test_classes_off_by_one_of_any_model_are_refused(shift, tmp_path, capsys):
    """0 for no class before classes of one's own, or --do-reduce-labels where the files have none such."""
    labels = np.repeat(np.arange(3), 20)[None, :].repeat(40, 0)
    folder = drawn(tmp_path, labels + (shift > 0))
    known = ("ball", "crate", "star", "sky")
    picture = Picture(str(folder / "photos/a.jpg"), (40, 60), [(k, 0.9, labels == k) for k in range(3)])
    options = {"labels": known, "dataset_ids": (1, 2, 3, 4), "task": "semantic", "input_uri": str(folder / "photos")}
    run = make_run(tmp_path / "run", [[picture]], **options).uri
    flag = ["--do-reduce-labels"] if shift < 0 else []
    assert evaluated(run, folder / "labels", *flag)[0] == 2
    assert f"{'leave out' if flag else 'give'} --do-reduce-labels; if they are label ids" in capsys.readouterr().err
    right = [] if flag else ["--do-reduce-labels"]
    assert evaluated(run, folder / "labels", *right)[1]["metrics"]["mIoU"] == 1


def test_named_classes_and_a_bad_model_are_measured_as_they_are(tmp_path):
    labels = np.repeat(np.arange(3), 20)[None, :].repeat(40, 0)
    folder = drawn(tmp_path, labels + 1)
    (tmp_path / "names.txt").write_text("ball\ncrate\nstar\nsky\n")
    picture = Picture(str(folder / "photos/a.jpg"), (40, 60), [(k, 0.9, labels == k) for k in range(3)])
    options = {"dataset_ids": (1, 2, 3, 4), "task": "semantic", "input_uri": str(folder / "photos")}
    run = make_run(tmp_path / "run", [[picture]], labels=("ball", "crate", "star", "sky"), **options).uri
    named = ["--masks", str(folder / "labels"), "--format", "semantic-png"]
    code, report = evaluated(run, tmp_path / "names.txt", *named)
    assert (code, report["metrics"]["mIoU"]) == (0, 0)  # named so, it is what it is
    noise = np.random.default_rng(0).integers(0, 4, (40, 60))
    bad = Picture(str(folder / "photos/a.jpg"), (40, 60), [(k, 0.9, noise == k) for k in range(4)])
    run = make_run(tmp_path / "bad", [[bad]], labels=("ball", "crate", "star", "sky"), **options).uri
    assert evaluated(run, folder / "labels")[0] == 0


@pytest.mark.parametrize("last", [200, 90])
def test_category_ids_of_coco(last, tmp_path, capsys):
    """Its category ids have gaps: above 132 they are no label ids, below they are told by what was found."""
    numbers = [18, 44, 62, last]
    values = np.repeat(numbers, 15)[None, :].repeat(40, 0)
    folder = drawn(tmp_path, values)
    found = np.vectorize(COCO.dataset_ids.index)(values)
    run = run_of(tmp_path / "run", COCO, {"a.jpg": found}, folder / "photos")
    code, report = evaluated(run, folder / "labels")
    said = capsys.readouterr()
    if last > 132:
        assert (code, report["metrics"]["mIoU"]) == (0, 1)
        assert "COCO panoptic's own file values (200 is no label id): read as such" in said.out
    else:
        assert code == 2
        assert "these are COCO panoptic's own file values: give a file with their names" in said.err
