"""Real runs of the demo model measured by the command: the figures of pycocotools and of plain definitions."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_MODEL, PROJECT
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.engines import config_of, in_process, rows_of

from m2f_batch.cli import main
from m2f_batch.demo.evaluate import ground_truth
from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS, VAL_SEED, Scene, draw_scene
from m2f_batch.exports.command import export
from m2f_batch.vision.masks.rle import decode_mask

SCENES = 12


@pytest.fixture(scope="module")
def unseen() -> list[Scene]:
    return [draw_scene(VAL_SEED + number) for number in range(SCENES)]


@pytest.fixture(scope="module")
def data(unseen: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes with their truth in three formats; class ids are label ids + 1."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "panoptic", "semantic"):
        (folder / name).mkdir()
    names = [{"id": i + 1, "name": name, "isthing": int(i not in STUFF_IDS)} for i, name in enumerate(CATEGORIES)]
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": names}
    for number, scene in enumerate(unseen, 1):
        name, (height, width) = f"{number:06d}.png", scene.owner.shape
        Image.fromarray(scene.image).save(folder / "images" / name)
        ids = np.zeros((height, width, 3), np.uint8)
        ids[..., 0] = scene.owner + 1
        Image.fromarray(ids).save(folder / "panoptic" / name)
        classes = np.asarray(scene.category_ids)[scene.owner].astype(np.uint8)
        Image.fromarray(classes).save(folder / "semantic" / name)
        there = np.unique(scene.owner).tolist()
        infos = [{"id": i + 1, "category_id": scene.category_ids[i] + 1, "iscrowd": 0} for i in there]
        tree["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        tree["annotations"].append({"image_id": number, "file_name": name, "segments_info": infos})
    (folder / "panoptic.json").write_text(json.dumps(tree))
    (folder / "instances.json").write_text(json.dumps(ground_truth(unseen)))
    return folder


def measured(data: Path, tmp_path: Path, task: str, truth: str, **postprocess: Any) -> tuple[Path, dict[str, Any]]:
    config = config_of(data / "images", tmp_path / "run", DEMO_MODEL, model={"task": task}, postprocess=postprocess)
    assert in_process(config) == 0
    report = tmp_path / "report.json"
    arguments = ["evaluate", str(tmp_path / "run"), "--ground-truth", str(data / truth), "--json", str(report)]
    assert main(arguments) == 0
    return tmp_path / "run", json.loads(report.read_text())


def test_instances_have_the_ap_of_pycocotools(data: Path, tmp_path: Path) -> None:
    run, report = measured(data, tmp_path, "instance", "instances.json", score_threshold=0.0)
    assert report["warnings"] == ["labels that the ground truth lacks are left out: sky, grass"]
    truth = str(data / "instances.json")
    export(str(run), str(tmp_path / "results.json"), "coco-results", truth)
    results = json.loads((tmp_path / "results.json").read_text())
    for result in results:
        assert "bbox" not in result  # or pycocotools takes the box's area for the mask's, and other objects for small
    with redirect_stdout(StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    wanted = [None if value == -1 else pytest.approx(value, abs=1e-12) for value in evaluation.stats]
    assert [report["metrics"][name] for name in names] == wanted
    assert report["metrics"]["AP"] > 0.8
    assert report["metrics"]["Dice"] > report["metrics"]["boundary_IoU"] > 0.6


def test_a_run_with_a_cut_says_so(data: Path, tmp_path: Path) -> None:
    _, report = measured(data, tmp_path, "instance", "instances.json")
    assert any("a score of 0.5 or more" in warning for warning in report["warnings"])


def test_panoptic_segments_have_pq_and_miou(unseen: list[Scene], data: Path, tmp_path: Path) -> None:
    run, report = measured(data, tmp_path, "panoptic", "panoptic.json")
    assert (report["format"], report["warnings"], report["images"]) == ("coco-panoptic", [], SCENES)
    common, union = np.zeros((2, len(CATEGORIES)))
    iou, matched, segments = np.zeros((3, len(CATEGORIES)))
    for scene, row in zip(unseen, rows_of(run), strict=True):
        classes, found = np.asarray(scene.category_ids)[scene.owner], np.full(scene.owner.shape, -1)
        for entry in row["segments"]:
            k, mask = entry["category_id"], decode_mask(entry["counts"], scene.owner.shape)
            found[mask] = k
            segments[k] += 1
            for i in np.flatnonzero(np.asarray(scene.category_ids) == k):
                true = scene.owner == i
                overlap = (true & mask).sum() / (true | mask).sum()
                matched[k] += overlap > 0.5
                iou[k] += overlap if overlap > 0.5 else 0
        for i in np.unique(scene.owner):
            segments[scene.category_ids[i]] += 1
        for k in range(len(CATEGORIES)):
            common[k] += ((classes == k) & (found == k)).sum()
            union[k] += ((classes == k) | (found == k)).sum()
    assert [entry["PQ"] for entry in report["classes"]] == pytest.approx(iou / (segments / 2), abs=1e-12)
    assert [entry["RQ"] for entry in report["classes"]] == pytest.approx(matched / (segments / 2), abs=1e-12)
    assert [entry["IoU"] for entry in report["classes"]] == pytest.approx(common / union, abs=1e-12)
    assert report["metrics"]["PQ_st"] == pytest.approx((iou / (segments / 2))[4:].mean(), abs=1e-12)


def test_semantic_segments_against_pngs(data: Path, tmp_path: Path) -> None:
    _, report = measured(data, tmp_path, "semantic", "semantic")
    assert (report["format"], report["warnings"]) == ("semantic-png", [])
    assert [entry["name"] for entry in report["classes"]] == [f"class {i}" for i in range(len(CATEGORIES))]
    assert report["metrics"]["mIoU"] > 0.9
    for entry in report["classes"]:
        assert entry["Dice"] == pytest.approx(2 * entry["IoU"] / (1 + entry["IoU"]), abs=1e-12)
        assert entry["boundary_IoU"] < entry["IoU"]


def test_the_job_is_the_command(data: Path, tmp_path: Path) -> None:
    run, report = measured(data, tmp_path, "panoptic", "panoptic.json")
    job = [sys.executable, str(PROJECT / "jobs" / "evaluate.py"), str(run)]
    arguments = ["--ground-truth", str(data / "panoptic.json"), "--json", str(tmp_path / "again.json")]
    done = subprocess.run([*job, *arguments], capture_output=True, text=True, timeout=300, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "again.json").read_text()) == report
    assert "overall PQ" in done.stdout
