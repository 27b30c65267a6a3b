"""Whole images to rows against transformers' logits and the plain definition, for three tasks at three shapes."""

from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import DEMO_MODEL
from support import reference
from support.models import IMAGES, save_random_model
from support.views import frame_of, values_of
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

from m2f_batch.models.loading import forward, load_model
from m2f_batch.models.predictions import Predictor
from m2f_batch.records import Row, segment_of
from m2f_batch.vision.segmenter import Segmenter, pinned_threads

CASES = {  # thresholds low enough for at least five segments in every image of the random model
    "instance": {"score_threshold": 0.2, "stuff_ids": [4, 5]},
    "panoptic": {"score_threshold": 0.1, "overlap_threshold": 0.0, "stuff_ids": [4, 5]},
    "semantic": {},
}


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module", params=["random", "demo"])
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("random_model") if request.param == "random" else DEMO_MODEL


@cache
def segmenter_of(model: Path, task: str) -> Segmenter:
    """Loading one takes longer than labeling the images, so tests share it."""
    return Segmenter.from_pretrained(str(model), task=task, **CASES[task])


@cache
def rows_of(model: Path, task: str) -> list[Row]:
    """Of ``IMAGES`` by our own forward pass."""
    return segmenter_of(model, task).rows(IMAGES)


@cache
def modules_of_transformers(model: Path) -> Predictor:
    return load_model(model, torch.device("cpu"), fast=False)


@pytest.fixture(scope="module")
def logits(model: Path) -> list[tuple]:
    """What transformers' own processor and model give for each image alone."""
    processor = AutoImageProcessor.from_pretrained(model, backend="torchvision")
    theirs = Mask2FormerForUniversalSegmentation.from_pretrained(model).eval()
    results = []
    for image in IMAGES:
        inputs = processor(image, return_tensors="pt")
        with torch.inference_mode(), pinned_threads(2):
            output = theirs(pixel_values=inputs["pixel_values"])
        canvas = tuple(inputs["pixel_values"].shape[-2:])
        results.append((output.class_queries_logits[0], output.masks_queries_logits[0], canvas, image.shape[:2]))
    assert len({canvas for _, _, canvas, _ in results}) == 3
    return results


@pytest.mark.parametrize("task", sorted(CASES))
def test_rows_equal_the_plain_definition(model, logits, task):
    segmenter = segmenter_of(model, task)
    if model != DEMO_MODEL:
        # its logits reach 340, so float32 arithmetic that is not the same to the bit moves them by more than 1e-4 (two
        # threads against one move transformers' own by 4e-4): "the same logits" are those of the same module
        segmenter = Segmenter(modules_of_transformers(model), segmenter.labeling, torch.device("cpu"))
    assert_rows(segmenter.rows(IMAGES), logits, task, at_least=5 if model != DEMO_MODEL else 2)


@pytest.mark.parametrize("task", sorted(CASES))
def test_rows_equal_the_plain_definition_of_the_fast_logits(random_model, logits_of_the_fast_model, task):
    assert_rows(rows_of(random_model, task), logits_of_the_fast_model, task, at_least=5)


def test_fast_logits_are_those_of_transformers_in_float64(random_model):
    cpu = torch.device("cpu")
    fast, theirs = (load_model(random_model, cpu, fast=fast).double() for fast in (True, False))
    processor = AutoImageProcessor.from_pretrained(random_model, backend="torchvision")
    values = processor(IMAGES[0], return_tensors="pt")["pixel_values"].double()
    for ours, wanted in zip(forward(fast, values).tensors, forward(theirs, values).tensors, strict=True):
        assert wanted.abs().max() > 10
        assert torch.allclose(ours, wanted, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def logits_of_the_fast_model(random_model: Path) -> list[tuple]:
    """What our forward pass gives for each image alone."""
    processor = AutoImageProcessor.from_pretrained(random_model, backend="torchvision")
    fast, results = load_model(random_model, torch.device("cpu")), []
    for image in IMAGES:
        values = processor(image, return_tensors="pt")["pixel_values"]
        with pinned_threads(2):
            class_logits, mask_logits = forward(fast, values).tensors
        results.append((class_logits[0], mask_logits[0], tuple(values.shape[-2:]), image.shape[:2]))
    return results


def assert_rows(rows: list[Row], logits: list[tuple], task: str, at_least: int) -> None:
    for row, (class_logits, mask_logits, canvas, output) in zip(rows, logits, strict=True):
        expected = getattr(reference, task)(
            class_logits, mask_logits, canvas=canvas, content=canvas, output=output, **CASES[task]
        )
        assert len(expected) >= at_least
        assert (row["status"], row["height"], row["width"]) == ("ok", *output)
        reference.assert_same([segment_of(entry, output) for entry in row["segments"]], expected)


@pytest.mark.parametrize("task", sorted(CASES))
def test_rows_do_not_depend_on_neighbours_or_order(random_model, task):
    segmenter = segmenter_of(random_model, task)
    together = rows_of(random_model, task)
    order = [1, 1, 0, 2]
    for index, row in zip(order, segmenter.rows([IMAGES[i] for i in order]), strict=True):
        assert row["segments"] == together[index]["segments"]


def test_a_batched_forward_changes_rounding_only(random_model):
    # what CUDA does: images of equal canvas share a forward pass; in float64 nothing but the last digits may change
    segmenter = Segmenter.from_pretrained(str(random_model), task="instance", **CASES["instance"])
    segmenter.model.double()
    from m2f_batch.vision.pixels.preprocess import prepare

    plan = segmenter.labeling.preprocess
    prepared = [prepare(image[:100, :150], plan) for image in [IMAGES[0], IMAGES[2]]]
    batch = values_of(prepared, plan).double()
    together = forward(segmenter.model, batch).tensors
    for index in range(len(prepared)):
        alone = forward(segmenter.model, batch[index : index + 1]).tensors
        for a, b in zip(alone, together, strict=True):
            assert torch.allclose(a[0], b[index], rtol=0, atol=1e-9)


def test_explicit_sizes_crop_the_padding_they_add(random_model):
    # at a size that leaves padding on both sides, against the definition on our canvas
    from m2f_batch.vision.pixels.preprocess import prepare

    size = {"shortest_edge": 150, "longest_edge": 230}
    segmenter = Segmenter.from_pretrained(str(random_model), task="panoptic", size=size, **CASES["panoptic"])
    plan = segmenter.labeling.preprocess
    for image, found in zip(IMAGES, segmenter(IMAGES), strict=True):
        prepared = prepare(image, plan)
        canvas, content, _ = frame_of(prepared)
        assert content != canvas
        with pinned_threads(2):
            class_logits, mask_logits = forward(segmenter.model, values_of([prepared], plan)).tensors
        expected = reference.panoptic(
            class_logits[0],
            mask_logits[0],
            canvas=canvas,
            content=content,
            output=image.shape[:2],
            **CASES["panoptic"],
        )
        reference.assert_same(found, expected)


def test_config_parameters_that_transformers_trips_over(random_model, tmp_path):
    import json
    import shutil

    other = tmp_path / "model"
    shutil.copytree(random_model, other)
    config = json.loads((other / "config.json").read_text())
    config["use_auxiliary_loss"] = False
    (other / "config.json").write_text(json.dumps(config))
    same = segmenter_of(random_model, "semantic")(IMAGES[:1])
    assert Segmenter.from_pretrained(str(other), task="semantic")(IMAGES[:1]) == same


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_runs_and_agrees_mostly(precision):
    exact = Segmenter.from_pretrained(str(DEMO_MODEL), task="semantic")(IMAGES)
    rough = Segmenter.from_pretrained(str(DEMO_MODEL), task="semantic", precision=precision)(IMAGES)
    for a, b in zip(exact, rough, strict=True):
        by_class = {segment.category_id: segment.mask() for segment in b}
        for segment in a:
            mask, other = segment.mask(), by_class[segment.category_id]
            assert (mask & other).sum() / (mask | other).sum() > 0.9
