"""``preprocess.size: paper`` against detectron2's formula and Pillow, and which older runs go on."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of
from support.views import values_of, view_of
from transformers.image_transforms import get_size_with_aspect_ratio

from m2f_batch.config.segment import AspectSize, ExactSize, ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.errors import ImageError, UsageError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import check_output_state, decide, differences, read_output_state, work_of
from m2f_batch.flow.attempt.plan_text import plan_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.job import check
from m2f_batch.models.checkpoint import Checkpoint
from m2f_batch.models.label_sets import LABEL_SETS
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.ray_session.resources import Resources
from m2f_batch.vision.label_settings import Labeling, fingerprint_of, settle
from m2f_batch.vision.pixels.preprocess import prepare

PUBLISHED = {"size": {"height": 384, "width": 384}, "size_divisor": 32}
TESTED = {
    "COCO panoptic": (800, 1333),
    "Cityscapes": (1024, 2048),
    "ADE20K": (640, 2560),
    "Mapillary Vistas": (2048, 2048),
}
SIZES = {
    "checkpoint": "checkpoint",
    "paper": "paper",
    "edges": AspectSize(shortest_edge=800, longest_edge=1333),
    "exact": ExactSize(height=512, width=1024),
}
# of settle() and facts() of commit c045618, for the checkpoints that ``settled`` makes
FINGERPRINTS_OF_C045618 = {
    "COCO panoptic, instance, checkpoint": "735bec066a5a768ee4e773b52d9979aade5dd179ee3bd4659bcd9e67b99aa9df",
    "COCO panoptic, instance, edges": "5c86cae1c55e860b5ff108b65a40573f29a76a38bc9df950f30f816e096ffe3f",
    "COCO panoptic, instance, paper": "5c86cae1c55e860b5ff108b65a40573f29a76a38bc9df950f30f816e096ffe3f",
    "COCO panoptic, panoptic, checkpoint": "3da8a12cd59d37df0eb284b144e99960cc2eb4e24cb226a4c0aca143d6a911d9",
    "COCO panoptic, panoptic, edges": "bd258d796c330c5b75fd8ea0783056813c1506569247fd3a55c2a7dafcec0ed0",
    "COCO panoptic, panoptic, exact": "ecaa71938adac204cad0333d373bc0192ba19897cc33a487211022ebfbbd5808",
    "COCO panoptic, panoptic, paper": "bd258d796c330c5b75fd8ea0783056813c1506569247fd3a55c2a7dafcec0ed0",
    "COCO panoptic, semantic, checkpoint": "619058e2b5ccdff530004ff1187e340d0e27a8b117b0285aaadf163f9fa55be4",
    "COCO panoptic, semantic, edges": "4167f0710cf40d4f77bb6bf559352f2918c406a5afe2f7762d5ec8d13d6e9367",
    "COCO panoptic, semantic, exact": "21f2115342266da2484f24a78631387ac15abf4d99c12f88be405428e39f79e0",
    "ADE20K, semantic, paper": "14b6d799ed45c3b7b76658b7fbd9bc6ddb6c275b854063ad75acd5130ea72934",
    "Cityscapes, panoptic, paper": "10300db4ea251d7c2f92297866d895482c5f7119949f5bb68d6badfbf37de150",
    "Mapillary Vistas, instance, checkpoint": "7ec7514d6aa7ffafe23bdac5fd0acbe14247839e5c44dd36740e91e744fd8067",
    "Mapillary Vistas, semantic, exact": "21f2115342266da2484f24a78631387ac15abf4d99c12f88be405428e39f79e0",
    "Mapillary Vistas, panoptic, checkpoint": "f9cebc058d9c53b6d29bfdc724602db526d522abe0823839606e6a38cf26c5ff",
    "Mapillary Vistas, panoptic, edges": "5d139e6d83c7e436ca60138b933b215cc279dd5249056557ce054fb44ff6f6c7",
    "Mapillary Vistas, panoptic, exact": "ef2054cae26b47827d03e4551b08a505c12b09a3175645ccb6705a30d6f74eed",
    "Mapillary Vistas, panoptic, paper": "6e32ecb459384acf806b7264f9d790b7781f7a5bfe2f391b1f8654bba1f2b5d4",
    "None, instance, checkpoint": "aee6e3056a969b299466152bf4d01c93884f539fb464ec9fe3da367e49d1f20e",
    "None, panoptic, edges": "7640762272d9695aeae4ea42da2c9b784ab99b03219660fa8f749d73ea8779ff",
    "None, panoptic, exact": "924d7ccd83b6a66ceeb9bd87856c9f9708a17d633574e763d40cbf314ce7a132",
}


def detectron2_shape(height: int, width: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
    """``ResizeShortestEdge.get_output_shape`` of detectron2, as it stands there."""
    size = short_edge_length * 1.0
    scale = size / min(height, width)
    if height < width:
        newh, neww = size, scale * width
    else:
        newh, neww = scale * height, size
    if max(newh, neww) > max_size:
        scale = max_size * 1.0 / max(newh, neww)
        newh = newh * scale
        neww = neww * scale
    return int(newh + 0.5), int(neww + 0.5)


def settled(label_set: str | None, task: str, size: Any, **postprocess: Any) -> Labeling:
    known = next((item for item in LABEL_SETS if item.name == label_set), None)
    names = {str(i): f"label {i}" for i in range(known.size if known else 3)}
    names |= {str(i): name for i, name in known.marks} if known else {}
    config = {"id2label": names, "backbone_config": {"embed_dim": 96}}
    return settle(
        Checkpoint("m", Path("m"), {"model_type": "mask2former", **config}, PUBLISHED),
        ModelConfig(uri="m", task=task),
        PreprocessConfig(size=size),
        PostprocessConfig(**postprocess),
    )


def plan_of(label_set: str) -> PreprocessPlan:
    return settled(label_set, "panoptic", "paper").preprocess


@pytest.mark.parametrize("label_set", TESTED)
def test_every_size_is_that_of_detectron2(label_set: str) -> None:
    plan, edges, compared = plan_of(label_set), TESTED[label_set], 0
    for hw in itertools.product(range(1, 2001, 37), repeat=2):
        expected = detectron2_shape(*hw, *edges)
        if min(expected) < 1:
            with pytest.raises(ImageError, match="TooThin"):
                plan.content_size(hw)
            continue
        assert plan.content_size(hw) == expected, hw
        assert max(expected) <= edges[1]
        canvas = plan.canvas_size(hw)
        assert all(0 <= padded - own < 32 and padded % 32 == 0 for padded, own in zip(canvas, expected, strict=True))
        compared += 1
    assert compared > 2500


def test_a_photograph_of_coco_is_1067_pixels_wide() -> None:
    plan = plan_of("COCO panoptic")
    assert (plan.content_size((480, 640)), plan.canvas_size((480, 640))) == ((800, 1067), (800, 1088))
    assert plan.describe() == (
        "shortest / longest edge 800 / 1333, rounded as detectron2 does, zeros up to multiples of 32"
    )


def test_explicit_edges_and_the_checkpoint_s_keep_the_arithmetic_of_transformers() -> None:
    explicit = settled("COCO panoptic", "panoptic", SIZES["edges"]).preprocess
    differ = 0
    for hw in itertools.product(range(30, 2001, 197), repeat=2):
        assert explicit.content_size(hw) == get_size_with_aspect_ratio(hw, 800, 1333)
        differ += explicit.content_size(hw) != plan_of("COCO panoptic").content_size(hw)
    assert differ > 10
    assert settled("COCO panoptic", "panoptic", "checkpoint").preprocess.content_size((480, 640)) == (384, 384)


def test_pixels_of_photographs_are_within_one_level_of_pillow_s(shared_data: Path) -> None:
    """As detectron2 resizes: PIL's bilinear filter on bytes."""
    plan = replace(plan_of("COCO panoptic"), rescale_factor=None, mean=None, std=None)
    photos = sorted((shared_data / "coco_tiny").rglob("*.jpg"))[:8]
    assert len(photos) == 8
    for path in photos:
        with Image.open(path) as file:
            photo = file.convert("RGB")
        height, width = detectron2_shape(photo.height, photo.width, 800, 1333)
        expected = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR), np.int16)
        prepared = prepare(np.asarray(photo), plan)
        assert view_of(prepared).content_hw == (height, width)
        assert np.abs(prepared.contents[0].astype(np.int16) - expected).max() <= 1
        values = values_of([prepared], plan)[0]
        assert not values[:, height:].any() and not values[:, :, width:].any()


@pytest.mark.parametrize("case", FINGERPRINTS_OF_C045618)
def test_only_fingerprints_whose_labels_change_are_new(case: str) -> None:
    """The paper's size has other pixels now, and panoptic on Mapillary another threshold; nothing else changed."""
    label_set, task, size = case.split(", ")
    labeling = settled(None if label_set == "None" else label_set, task, SIZES[size])
    facts = labeling.facts("f" * 64, 200_000_000, 2)
    is_same = fingerprint_of(facts) == FINGERPRINTS_OF_C045618[case]
    assert is_same == (size != "paper" and (label_set, task) != ("Mapillary Vistas", "panoptic"))
    assert facts["semantics"] == ("3" if size == "paper" else "2")


@pytest.mark.parametrize("size", SIZES)
def test_panoptic_on_mapillary_keeps_all_scores(size: str) -> None:
    def threshold(label_set: str, task: str, **given: Any) -> float | None:
        return settled(label_set, task, SIZES[size], **given).postprocess.get("score_threshold")

    assert threshold("Mapillary Vistas", "panoptic") == 0.0
    assert threshold("Mapillary Vistas", "panoptic", score_threshold=0.8) == 0.8
    assert threshold("Mapillary Vistas", "instance") == 0.5
    assert threshold("Cityscapes", "panoptic") == 0.8
    assert threshold("Mapillary Vistas", "semantic") is None


def job_of(folder: Path, label_set: str, size: Any, **postprocess: Any) -> Job:
    """A job of the demo model whose labels are taken for a published set's."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    (images / "a.png").write_bytes(b"x")
    job = check(config_of(images, folder / "run", DEMO_MODEL))
    config = job.config.model_copy(update={"postprocess": PostprocessConfig(**postprocess)})
    return replace(job, config=config, labeling=settled(label_set, "panoptic", size, **postprocess))


# run.json of c045618 held these of a panoptic run with preprocess.size paper, or of 800 / 1333 given, on COCO
OLD_FACTS = json.loads(
    '{"task": "panoptic", "preprocess": {"size": "shortest_edge=800 longest_edge=1333", "divisor": 32, '
    '"round_content": false, "resample": 2, "rescale_factor": 0.00392156862745098, "mean": [0.485, 0.456, 0.406], '
    '"std": [0.229, 0.224, 0.225], "pad_size": null, "lone_edge": false}, "postprocess": {"score_threshold": 0.8, '
    '"mask_threshold": 0.5, "overlap_threshold": 0.8, "stuff_ids": []}, "precision": "fp32", "compile": false, '
    '"cpu_threads": 2, "decode_policy": ["1", 200000000], "semantics": "2"}'
)


def begun(job: Job, facts: dict[str, Any]) -> None:
    """A run that was begun with these facts."""
    begin(job.run, work_of(job, read_output_state(job.run), "cpu"))
    facts = {"model": job.checkpoint.fingerprint, **facts}
    job.run.write_info(job.run.read_info() | {"fingerprint_of": facts, "fingerprint": fingerprint_of(facts)})


def test_a_run_of_an_older_release_goes_on_unless_its_labels_would_change(tmp_path: Path) -> None:
    edges = job_of(tmp_path, "COCO panoptic", SIZES["edges"], stuff_ids=[])
    begun(edges, OLD_FACTS)
    assert read_output_state(edges.run).info["fingerprint_of"]["semantics"] == "2"
    check_output_state(edges, read_output_state(edges.run), "cpu")
    assert work_of(edges, read_output_state(edges.run), "cpu").info["attempts"] == 2
    paper = job_of(tmp_path, "COCO panoptic", "paper", stuff_ids=[])
    with pytest.raises(UsageError) as caught:
        check_output_state(paper, read_output_state(paper.run), "cpu")
    assert (
        "the version of the semantics (3: preprocess.size paper rounds as detectron2; the same edges in numbers go on "
        'with 2) is "2" there and "3" here; give the same settings'
    ) in str(caught.value)


def test_a_run_over_mapillary_s_labels_is_refused_by_its_threshold(tmp_path: Path) -> None:
    exact = SIZES["edges"]
    now = job_of(tmp_path, "Mapillary Vistas", exact, stuff_ids=[]).facts("cpu")
    assert differences({"model": now["model"], **OLD_FACTS}, now) == [
        "postprocess.score_threshold is 0.8 there and 0.0 here"
    ]
    given = job_of(tmp_path, "Mapillary Vistas", exact, stuff_ids=[], score_threshold=0.8)
    begun(given, OLD_FACTS)
    check_output_state(given, read_output_state(given.run), "cpu")


def test_the_plan_says_the_size_and_the_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2f_batch.flow.attempt.plan_text.present", lambda: [{"CPU": 2.0}])
    resources = Resources("cpu", (1, 1), 1.0, 0.0, 1.0)

    def lines(job: Job) -> list[str]:
        return [line.strip() for line in plan_lines(job, resources, decide(job, "cpu"))]

    said = lines(job_of(tmp_path, "Mapillary Vistas", "paper"))
    assert (
        "canvas: shortest / longest edge 2048 / 2048, rounded as detectron2 does, zeros up to multiples of 32; fp32"
        in said
    )
    assert "score threshold 0, the paper's for this label set (elsewhere 0.8)" in said
    assert not [line for line in lines(job_of(tmp_path, "COCO panoptic", "paper")) if "score threshold" in line]
    set_by_hand = lines(job_of(tmp_path, "Mapillary Vistas", "paper", score_threshold=0.0))
    assert not [line for line in set_by_hand if "score threshold" in line]
