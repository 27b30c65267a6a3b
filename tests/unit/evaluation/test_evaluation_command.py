"""``m2f-batch evaluate`` on runs made by hand: which rows and categories meet, what is said, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from support.hand_made import Picture, box_mask, make_run
from support.s3_servers import S3Endpoint

from m2f_batch.cli import main
from m2f_batch.errors import ImageError, UsageError
from m2f_batch.evaluation.command import _shown
from m2f_batch.evaluation.ground_truth import form_of
from m2f_batch.evaluation.pairing import pair_by_uri
from m2f_batch.exports.categories import match_categories
from m2f_batch.messages.notes import notes_to
from m2f_batch.models.label_sets import Category, names_of
from m2f_batch.runs.directory import RunDirectory, open_directory

SIZE = (40, 60)
OBJECTS = {  # name: [(label id, mask)]
    "a.jpg": [(0, box_mask(SIZE, 2, 3, 10, 20)), (1, box_mask(SIZE, 20, 10, 12, 12))],
    "more/b.jpg": [(0, box_mask(SIZE, 5, 5, 20, 20))],
    "c.jpg": [],
}


def pictures(**changes: Picture) -> list[list[Picture]]:
    """A run that found exactly what is there; ``changes`` are by name without extension."""
    found = []
    for name, objects in OBJECTS.items():
        stem = Path(name).stem
        found.append(changes.get(stem) or Picture(f"/photos/{name}", SIZE, [(k, 0.9, mask) for k, mask in objects]))
    return [found]


def truth_tree(names: dict[int, str] | None = None, **images: str) -> dict[str, Any]:
    """A COCO JSON of OBJECTS, encoded by pycocotools; categories are label ids + 4."""
    names = names or {4: "cat", 5: "dog", 6: "sky"}
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    tree["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    for image_id, (name, objects) in enumerate(OBJECTS.items(), 10):
        path = images.get(Path(name).stem, name)
        tree["images"].append({"id": image_id, "file_name": path, "height": SIZE[0], "width": SIZE[1]})
        for label, mask in objects:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode()
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label + 4,
                    "segmentation": rle,
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    return tree


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    (tmp_path / "truth.json").write_text(json.dumps(truth_tree()))
    return tmp_path / "truth.json"


def measured(run: RunDirectory, truth: str | Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    report = tmp_path / "report.json"
    assert main(["evaluate", run.uri, "--ground-truth", str(truth), "--json", str(report), *options]) == 0
    return json.loads(report.read_text())


def test_json_on_stdout_is_all_that_is_there(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    report = measured(run, truth, tmp_path)
    table = capsys.readouterr().out
    assert main(["evaluate", run.uri, "--ground-truth", str(truth), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == report
    assert said.err == table and not (tmp_path / "-").exists()


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("m2f-batch evaluate: ")
    return said.err


def test_what_was_found_exactly_is_perfect(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    report = measured(run, truth, tmp_path)
    assert report["rows"] == {"ok": 3, "error": 0, "remaining": 0, "without_row": 0, "not_annotated": 0}
    assert (report["images"], report["format"], report["warnings"]) == (3, "coco", [])
    assert report["metrics"]["AP"] == report["metrics"]["APs"] == pytest.approx(1, abs=1e-12)
    assert (report["metrics"]["APl"], report["metrics"]["Dice"], report["metrics"]["boundary_IoU"]) == (None, 1, 1)
    assert [(entry["id"], entry["name"], entry["AP"]) for entry in report["classes"]] == [
        (4, "cat", pytest.approx(1, abs=1e-12)),
        (5, "dog", pytest.approx(1, abs=1e-12)),
        (6, "sky", None),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run.uri}: instance, 3 images against {truth} (coco)"
    assert lines[1].split()[:4] == ["class", "AP", "AP50", "AP75"]
    assert lines[2].split()[:2] == ["cat", "1.000"]
    assert lines[4].split()[:2] == ["sky", "-"]
    assert lines[5].split()[:2] == ["all", "1.000"]
    assert lines[6].startswith("overall AP 1.000, AP50 1.000")


def test_images_that_failed_or_have_no_row_count_as_nothing_found(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Picture("/photos/a.jpg", error=ImageError("decode", "Truncated", "short"))
    other = Picture("/photos/other.jpg", SIZE, [(0, 0.9, OBJECTS["a.jpg"][0][1])])
    run = make_run(tmp_path / "run", [[broken, other, pictures()[0][2]]], task="instance")
    report = measured(run, truth, tmp_path)
    assert report["rows"] == {"ok": 1, "error": 1, "remaining": 0, "without_row": 1, "not_annotated": 1}
    assert report["images"] == 3
    assert (report["metrics"]["AP"], report["classes"][0]["AR100"]) == (0, 0)
    said = capsys.readouterr().out
    assert "warning: 1 annotated images failed in the run: nothing was found in them" in said
    assert "warning: 1 annotated images have no row: nothing was found in them" in said
    assert "warning: 1 rows are of images that are not annotated, and are left out" in said


def test_a_run_that_is_not_finished(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures(a=Picture("/photos/a.jpg", remains=True)), task="instance")
    assert main(["evaluate", run.uri, "--ground-truth", str(truth)]) == 1
    said = capsys.readouterr()
    assert "is not finished: 1 of 3 images remain" in said.err
    assert said.out == ""
    report = measured(run, truth, tmp_path, "--partial")
    assert report["rows"] == {"ok": 2, "error": 0, "remaining": 1, "without_row": 0, "not_annotated": 0}
    assert (report["images"], report["classes"][0]["AP50"]) == (2, pytest.approx(1, abs=1e-12))
    assert report["classes"][1]["AP50"] is None  # the only dog is in the image that remains


def test_ap_of_a_cut_run_is_warned_of(tmp_path: Path, truth: Path) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    run.write_info(run.read_info() | {"postprocess": {"score_threshold": 0.5}})
    (warning,) = measured(run, truth, tmp_path)["warnings"]
    assert warning.startswith("AP needs all detections, and the run kept those of a score of 0.5 or more")
    assert measured(run, truth, tmp_path, "--metrics", "dice")["warnings"] == []
    run.write_info(run.read_info() | {"postprocess": {"score_threshold": 0.0}})
    assert measured(run, truth, tmp_path)["warnings"] == []


def test_rows_and_images_meet_by_their_paths_below_the_folders(tmp_path: Path) -> None:
    (tmp_path / "gt").mkdir()
    # one file name in three folders
    names = {Path(name).stem: f"{number}/same.jpg" for number, name in enumerate(OBJECTS)}
    (tmp_path / "truth.json").write_text(json.dumps(truth_tree(**names)))
    moved = [
        Picture(f"/photos/{names[Path(name).stem]}", SIZE, [(k, 0.9, mask) for k, mask in objects])
        for name, objects in OBJECTS.items()
    ]
    run = make_run(tmp_path / "run", [moved], task="instance")
    for images in ([], ["--images", str(tmp_path / "gt")]):
        report = measured(run, tmp_path / "truth.json", tmp_path, *images)
        assert report["metrics"]["AP"] == pytest.approx(1, abs=1e-12)


def test_who_may_be_meant_twice_is_refused(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = [Picture("/photos/x/a.jpg", SIZE), Picture("/photos/y/a.jpg", SIZE)]
    run = make_run(tmp_path / "run", [twins], task="instance")
    said = mistake(capsys, run.uri, "--ground-truth", str(truth))
    assert f"--ground-truth: its image '{tmp_path}/a.jpg' may be '/photos/x/a.jpg' or '/photos/y/a.jpg'" in said
    run = make_run(tmp_path / "run2", [[Picture("/photos/z.jpg", SIZE)]], task="instance")
    assert "have no image in common" in mistake(capsys, run.uri, "--ground-truth", str(truth))


@pytest.mark.parametrize(
    ("rows", "truths", "folder", "found"),
    [
        (["/in/a/1.png", "/in/1.png"], ["/in/1.png"], None, {"/in/1.png": "/in/1.png"}),
        (["/in/x/1.png", "/in/b/x/1.png"], ["/gt/x/1.png"], "/gt", {"/in/x/1.png": "/gt/x/1.png"}),
        (["/in/a/1.png", "/in/c/1.png"], ["/gt/a/1.png", "/gt/d/1.png"], None, {"/in/a/1.png": "/gt/a/1.png"}),
        (["/in/a/1.png"], ["/gt/b/1.png"], None, {"/in/a/1.png": "/gt/b/1.png"}),
        (["s3://in/a/1.png", "s3://in/2.png"], ["/gt/2.png"], None, {"s3://in/2.png": "/gt/2.png"}),
        (["/in/1.png"], ["/gt/2.png"], None, {}),
    ],
)
def test_pairs(rows: list[str], truths: list[str], folder: str | None, found: dict[str, str]) -> None:
    assert pair_by_uri(rows, truths, row_path=lambda uri: uri.removeprefix("/in/"), folder=folder) == found


def test_pairs_that_are_not_clear() -> None:
    for rows, truths in ((["/in/a/1"], ["/gt/c/1", "/gt/d/1"]), (["/a/x/1", "/b/x/1"], ["/gt/x/1", "/gt/2"])):
        with pytest.raises(UsageError, match="may be"):
            pair_by_uri(rows, truths, row_path=str, folder=None)


def test_categories_of_one_side_only_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth_tree({4: " cat ", 5: "unicorn"})))
    run = make_run(tmp_path / "run", pictures(), task="instance")
    report = measured(run, tmp_path / "truth.json", tmp_path)
    assert "labels that the ground truth lacks are left out: dog, sky" in report["warnings"]
    assert "categories that the model lacks are never found: unicorn" in report["warnings"]
    assert [entry["AP50"] for entry in report["classes"]] == [pytest.approx(1, abs=1e-12), 0]
    (tmp_path / "truth.json").write_text(json.dumps(truth_tree({4: "x", 5: "y"})))
    capsys.readouterr()
    assert "none of its categories (x, y, ...)" in mistake(capsys, run.uri, "--ground-truth", f"{tmp_path}/truth.json")


def test_known_label_sets_meet_by_their_own_ids_too() -> None:
    names = ["person", *(f"n{number}" for number in range(1, 79)), "toothbrush"]  # the marks of the 80 of COCO
    labels = [Category(i, name, True, 2 * i + 1) for i, name in enumerate(names)]
    named = [(label.dataset_id, label.name) for label in labels]
    named[57] = (115, "couch")
    assert match_categories(labels, named, "t", ()).ids == {i: 2 * i + 1 for i in range(80)}
    shifted = [(number + 1, name) for number, name in named]  # other ids: names alone count
    assert match_categories(labels, shifted, "t", ()).ids == {i: 2 * i + 2 for i in range(80) if i != 57}
    few = [(1, "person"), (115, "couch"), (3, "spoon"), (5, "vase")]
    assert match_categories(labels, few, "t", ()).ids == {0: 1}


@pytest.mark.parametrize(("first", "matched"), [(0, range(21)), (1, [i for i in range(21) if i != 19])])
def test_sets_that_a_run_did_not_know_meet_by_name_alone(first: int, matched: Sequence[int]) -> None:
    """Labels of Pascal VOC have its ids from 0. A Mask2Former run, which does not know the set, numbers from 1."""
    names = names_of("Pascal VOC")
    labels = [Category(i, name, True, i + first) for i, name in names.items()]
    named = [(i + first, "railway" if i == 19 else name) for i, name in names.items()]
    assert match_categories(labels, named, "t", ()).ids == {i: i + first for i in matched}


@pytest.mark.parametrize(("task", "metric"), [("instance", "pq"), ("semantic", "ap"), ("panoptic", "speed")])
def test_metrics_that_do_not_fit_the_task(
    tmp_path: Path, truth: Path, task: str, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", pictures(), task=task)
    said = mistake(capsys, run.uri, "--ground-truth", str(truth), "--metrics", metric)
    assert f"--metrics: {metric!r} is not known for {task} rows; allowed: " in said


def test_another_size_is_refused(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = Picture("/photos/a.jpg", SIZE[::-1], [])
    run = make_run(tmp_path / "run", pictures(a=turned), task="instance")
    said = mistake(capsys, run.uri, "--ground-truth", str(truth))
    assert "/photos/a.jpg is 60x40, but its annotations are of 40x60 (height x width)" in said


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (None, [], "--ground-truth: "),
        ("[1, 2]", [], "semantic-png, yolo; name it with --format"),
        ('{"images": []}', [], "is no COCO JSON: it has no list"),
        ("{}", ["--format", "voc"], "--format: 'voc' is not known; allowed: coco, coco-panoptic"),
        ("{}", ["--format", "coco", "--masks", "/m"], "--masks: the format coco has no folder of masks"),
        ("{}", ["--json", "/"], "--json: '/' is a folder"),
    ],
)
def test_ground_truths_that_are_none(
    tmp_path: Path, content: str | None, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    if content is not None:
        (tmp_path / "truth.json").write_text(content)
    said = mistake(capsys, run.uri, "--ground-truth", str(tmp_path / "truth.json"), *options)
    assert told in said
    assert "data." not in said


def test_folders_say_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    yolo, empty, coco = tmp_path / "yolo", tmp_path / "empty", tmp_path / "annotations"
    for folder in (yolo, empty, coco):
        folder.mkdir()
    (yolo / "data.yaml").write_text("names: [cat]")
    (coco / "val.json").write_text(json.dumps(truth_tree()))
    assert f"give its file '{yolo}/data.yaml'" in mistake(capsys, run.uri, "--ground-truth", str(yolo))
    assert "has no labelme JSON and no PNG" in mistake(capsys, run.uri, "--ground-truth", str(empty))
    assert f"looks like COCO: give its file '{coco}/val.json'" in mistake(capsys, run.uri, "--ground-truth", str(coco))


def test_semantic_rows_against_a_folder_of_class_pngs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in (photos, masks):
        folder.mkdir()
    values = np.zeros(SIZE, np.uint8)  # cat
    values[:, 30:], values[:, 50:] = 1, 255  # dog, and what counts for nothing
    Image.fromarray(values).save(masks / "a.png")
    Image.new("RGB", SIZE[::-1]).save(photos / "a.jpg")
    cats = np.arange(60)[None, :].repeat(40, 0) < 40  # 10 columns too many
    picture = Picture(str(photos / "a.jpg"), SIZE, [(0, 0.9, cats), (1, 0.8, ~cats)])
    run = make_run(tmp_path / "run", [[picture]], task="semantic", input_uri=str(photos))
    report = measured(run, masks, tmp_path, "--ignore-index", "255")
    assert report["format"] == "semantic-png"
    assert [entry["IoU"] for entry in report["classes"]] == [0.75, 0.5]
    assert [entry["Dice"] for entry in report["classes"]] == pytest.approx([6 / 7, 2 / 3], abs=1e-12)
    assert report["metrics"]["mIoU"] == 0.625
    noise = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), np.uint8)  # photographs as PNGs, beside their masks
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "shots").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "shots" / "a.png")
    beside = measured(run, tmp_path / "shots", tmp_path, "--masks", str(masks), "--ignore-index", "255")
    assert beside["metrics"] == report["metrics"]
    assert report["warnings"] == ["labels that the ground truth lacks are left out: sky"]
    capsys.readouterr()
    assert "set --ignore-index to 255" in mistake(capsys, run.uri, "--ground-truth", str(masks))
    run = make_run(tmp_path / "panoptic", [[picture]], task="panoptic", input_uri=str(photos))
    assert set(measured(run, masks, tmp_path, "--ignore-index", "255")["metrics"]) == {"mIoU"}
    capsys.readouterr()
    said = mistake(capsys, run.uri, "--ground-truth", str(masks), "--ignore-index", "255", "--metrics", "pq")
    assert "--metrics: pq needs a ground truth that tells objects apart" in said
    run = make_run(tmp_path / "instance", [[picture]], task="instance", input_uri=str(photos))
    said = mistake(capsys, run.uri, "--ground-truth", str(masks), "--ignore-index", "255")
    assert "objects cannot be measured against semantic-png" in said


def test_a_run_and_a_truth_in_a_bucket(tmp_path: Path, truth: Path, moto_s3: S3Endpoint) -> None:
    run = make_run(tmp_path / "run", pictures(), task="instance")
    here = measured(run, truth, tmp_path)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    moto_s3.put({f"runs/1/{path.relative_to(tmp_path / 'run')}": path.read_bytes() for path in files})
    moto_s3.put({"gt/truth.json": truth.read_bytes()})
    there = open_directory(f"{moto_s3.uri}/runs/1")
    options = ["--ground-truth", f"{moto_s3.uri}/gt/truth.json", "--json", f"{moto_s3.uri}/out/report.json"]
    assert main(["evaluate", there.uri, *options]) == 0
    body = moto_s3.client().get_object(Bucket=moto_s3.bucket, Key="out/report.json")["Body"].read()
    assert {key: value for key, value in json.loads(body).items() if key not in ("run", "ground_truth")} == {
        key: value for key, value in here.items() if key not in ("run", "ground_truth")
    }


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("coco_tiny/annotations/instances_val2017.json", "coco"),
        ("coco128_panoptic_train/panoptic_train2017.json", "coco-panoptic"),
        ("coco128_panoptic_train/yolo_seg_config.yaml", "yolo"),
        ("coco128_panoptic_train/semantic", "semantic-png"),
        ("labelme_examples/instance_segmentation/data_annotated", "labelme"),
    ],
)
def test_formats_are_known_by_what_is_in_them(shared_data: Path, place: str, form: str) -> None:
    assert form_of(str(shared_data / place)) == form


def test_a_command_that_measures_loads_neither_torch_nor_ray() -> None:
    code = "import sys, m2f_batch.evaluation.command; print([m for m in ('torch', 'ray', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("is_heard", "is_drawn"), [(True, True), (False, False)])
def test_a_terminal_shows_how_far_it_is(is_heard: bool, is_drawn: bool, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    left = {"a": 0, "b": 1}
    with notes_to((lambda line: None) if is_heard else None), _shown(2, left):
        left.pop("a")
    assert ("images" in (drawn := capsys.readouterr().err) and "1 of 2" in drawn) is is_drawn
    assert is_drawn or drawn == ""
