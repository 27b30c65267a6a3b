"""The demo's scenes are exact and its model is good; AP is the same from rows and from an export of them."""

import json

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of, in_process, rows_of

from m2f_batch.demo.evaluate import ground_truth, mask_ap, mean_iou, panoptic_quality, results_of
from m2f_batch.demo.scenes import CATEGORIES, SHOW_SEED, SIZES_HW, STUFF_IDS, VAL_SEED, draw_scene
from m2f_batch.exports.command import export
from m2f_batch.records import Segment, segment_of

SCENES = 24


@pytest.fixture(scope="module")
def unseen():
    return [draw_scene(VAL_SEED + number) for number in range(SCENES)]


@pytest.fixture(scope="module")
def labelled(unseen, tmp_path_factory):
    """Runs over the unseen scenes, one per task, every score kept for AP: (output folder, segments per image)."""
    images = tmp_path_factory.mktemp("unseen")
    for number, scene in enumerate(unseen, start=1):
        Image.fromarray(scene.image).save(images / f"{number:06d}.png")
    runs = {}
    for task in ("instance", "semantic", "panoptic"):
        output = tmp_path_factory.mktemp(task) / "run"
        options = {"postprocess": {"score_threshold": 0.0}} if task == "instance" else {}
        assert in_process(config_of(images, output, DEMO_MODEL, model={"task": task}, **options)) == 0
        found = [
            [segment_of(entry, (row["height"], row["width"])) for entry in row["segments"]] for row in rows_of(output)
        ]
        runs[task] = output, found
    return runs


def test_the_model_is_good(unseen, labelled):
    ap, _ = mask_ap(ground_truth(unseen), results_of(labelled["instance"][1]))
    assert ap >= 0.8, "0.878 on 400 scenes when it was trained"
    assert panoptic_quality(unseen, labelled["panoptic"][1]) >= 0.9
    assert mean_iou(unseen, labelled["semantic"][1]) >= 0.95


def test_ap_of_the_export_is_that_of_the_rows(unseen, labelled, tmp_path):
    output, found = labelled["instance"]
    truth = ground_truth(unseen)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    export(str(output), str(tmp_path / "results.json"), "coco-results", str(tmp_path / "truth.json"))
    exported = json.loads((tmp_path / "results.json").read_text())
    assert len(exported) == sum(len(segments) for segments in found)
    assert mask_ap(truth, exported) == mask_ap(truth, results_of(found))


def test_the_measures_are_perfect_for_the_truth_and_fall_for_less(unseen):
    from m2f_batch.vision.masks.rle import encode_mask

    def segments_of(scene, categories=(0, 1, 2, 3, 4, 5)):
        pairs = zip(scene.category_ids, scene.masks(), strict=True)
        codes = [(c, encode_mask(mask)) for c, mask in pairs if c in categories]
        shape = scene.owner.shape
        return [Segment(1, c, CATEGORIES[c], 1.0, k.area, k.bbox, k.counts, shape) for c, k in codes]

    exact = [segments_of(scene) for scene in unseen]
    things = [[s for s in segments if s.category_id not in STUFF_IDS] for segments in exact]
    assert mask_ap(ground_truth(unseen), results_of(things)) == (pytest.approx(1.0), pytest.approx(1.0))
    assert panoptic_quality(unseen, exact) == 1.0
    assert mean_iou(unseen, exact) == 1.0
    without_balls = [segments_of(scene, range(1, len(CATEGORIES))) for scene in unseen]
    assert panoptic_quality(unseen, without_balls) == pytest.approx(5 / 6)
    assert mean_iou(unseen, without_balls) == pytest.approx(5 / 6)


def test_scenes_are_deterministic_and_tiled_by_their_segments():
    shapes = set()
    for seed in range(SHOW_SEED, SHOW_SEED + 24):
        scene, again = draw_scene(seed), draw_scene(seed)
        assert (scene.image == again.image).all()
        assert (scene.owner == again.owner).all()
        assert (scene.masks().sum(0) == 1).all(), "every pixel has one owner"
        assert set(scene.category_ids) >= STUFF_IDS
        assert scene.masks().any((1, 2)).all()
        shapes.add(scene.owner.shape)
    assert shapes == set(SIZES_HW)
    assert np.unique([c for seed in range(40) for c in draw_scene(seed).category_ids]).tolist() == list(range(6))
