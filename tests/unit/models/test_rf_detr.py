"""The rules of RF-DETR-Seg: what a directory may hold, what the model sees, and what is done with its logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support.tiny import rf_detr
from transformers import RfDetrConfig, RfDetrForInstanceSegmentation, RfDetrImageProcessor

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import ExactSize, ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.families.rf_detr import FAMILY
from m2f_batch.models.label_sets import names_of
from m2f_batch.models.loading import load_original
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rf_detr.build(tmp_path_factory.mktemp("rf_detr") / "m")


@pytest.fixture
def checkpoint(model: Path) -> Checkpoint:
    return read_checkpoint(model, "m")


def settled(checkpoint: Checkpoint, *, preprocess: Any = None, postprocess: Any = None) -> Labeling:
    return settle(
        checkpoint,
        ModelConfig(uri="m"),
        check_config(PreprocessConfig, preprocess or {}),
        check_config(PostprocessConfig, postprocess or {}),
    )


def changed(model: Path, folder: Path, *, backbone: Any = None, without: str = "", **config: Any) -> Path:
    """A copy of the model with another config.json, or less weights."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tree = json.loads((model / "config.json").read_text()) | config
    tree["backbone_config"] |= backbone or {}
    (folder / "config.json").write_text(json.dumps(tree))
    if without:
        tensors = {name: each for name, each in load_file(model / "model.safetensors").items() if without not in name}
        save_file(tensors, folder / "model.safetensors")
    return folder


def test_instance_is_its_task_with_as_many_pairs_as_queries(checkpoint: Checkpoint) -> None:
    labeling = settled(checkpoint)
    assert (labeling.task, labeling.stuff_ids_from) == ("instance", "none")
    assert labeling.postprocess == {
        "score_threshold": 0.5,
        "mask_threshold": 0.5,
        "top_k": 12,
        "stuff_ids": frozenset(),
        "keep_empty": True,
    }
    asked = settled(checkpoint, postprocess={"score_threshold": 0.0, "top_k": 5}).postprocess
    assert (asked["score_threshold"], asked["top_k"]) == (0.0, 5)


def test_pixel_values_are_those_of_its_processor(checkpoint: Checkpoint, model: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (131, 77, 3), dtype=np.uint8)
    plan = settled(checkpoint).preprocess
    made = prepare(image, plan)
    ours = pixel_values(made.contents, made.views[0].canvas_hw, plan, torch.device("cpu"))
    theirs = RfDetrImageProcessor.from_pretrained(model)(image, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (1, 3, 96, 96)
    assert (ours - theirs).abs().max() < 5e-6
    assert plan.describe() == "96x96 (height x width), aspect ratio not kept, resized without antialias"


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ({"height": 96, "width": 120}, "RF-DETR sees squares alone, whose edge is a multiple of 24$"),
        ({"shortest_edge": 96, "longest_edge": 192}, "RF-DETR sees squares alone, whose edge is a multiple of 24$"),
        ({"height": 100, "width": 100}, "must be a multiple of 24, not 100$"),
        ({"height": 24, "width": 24}, "an edge of 24 has too few patches for the 12 queries of this RF-DETR$"),
    ],
)
def test_a_size_that_it_cannot_see_is_refused(checkpoint: Checkpoint, size: dict[str, int], told: str) -> None:
    with pytest.raises(UsageError, match=f"^preprocess.size: .*{told}"):
        settled(checkpoint, preprocess={"size": size})


def test_another_square_is_seen(checkpoint: Checkpoint, model: Path) -> None:
    plan = settled(checkpoint, preprocess={"size": {"height": 72, "width": 72}}).preprocess
    assert plan.canvas_size((40, 50)) == (72, 72)
    prediction = load_original(model)(torch.zeros(1, 3, 72, 72))
    assert [tuple(each.shape) for each in prediction.tensors] == [(1, 12, 5), (1, 12, 18, 18)]


def test_a_processor_that_keeps_the_aspect_ratio_is_refused_unless_a_size_is_given(model: Path, tmp_path: Path) -> None:
    folder = changed(model, tmp_path / "m")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "RfDetrImageProcessor"}))
    checkpoint = read_checkpoint(folder, "m")
    with pytest.raises(UsageError, match=r"^preprocess.size: shortest / longest edge 800 / 1333.*squares alone"):
        settled(checkpoint)
    settled(checkpoint, preprocess={"size": {"height": 96, "width": 96}})


@pytest.mark.parametrize(
    ("backbone", "config", "told"),
    [
        ({"model_type": "swin"}, {}, "must be a backbone_config of model_type rf_detr_dinov2, not 'swin'"),
        ({"patch_size": [12, 12]}, {}, r"patch_size must be a whole number above 0, not \[12, 12\]"),
        ({"num_windows": 0}, {}, "num_windows must be a whole number above 0, not 0"),
        ({}, {"num_queries": "many"}, "num_queries must be a whole number above 0, not 'many'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    model: Path, tmp_path: Path, backbone: dict[str, Any], config: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=f"^model.uri: config.json of m: .*{told}"):
        read_checkpoint(changed(model, tmp_path / "m", backbone=backbone, **config), "m")


def test_a_model_that_only_finds_boxes_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no segmentation_head.bias, so it finds boxes and no masks; give an RF-DETR"):
        read_checkpoint(changed(model, tmp_path / "m", without="segmentation_head"), "m")


def test_what_is_for_training_alone_may_be_missing(model: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("mask_token", "enc_output.1", "enc_out_class_embed.1")):
        load_original(changed(model, tmp_path / str(number), without=part))


# as transformers' converter wrote it, and Roboflow/rf-detr-nano has it
PUBLISHED_PROCESSOR = {
    "do_convert_annotations": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "format": "coco_detection",
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "DetrImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 96, "width": 96},
    "use_fast": True,
}


@pytest.fixture(scope="module")
def published(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as transformers' converter writes: 91 labels without names, and names of its own modules."""
    folder = tmp_path_factory.mktemp("published")
    config = RfDetrConfig.from_pretrained(model)
    config.num_labels = 91
    RfDetrForInstanceSegmentation(config).save_pretrained(folder, save_original_format=False)
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PROCESSOR))
    return folder


def test_a_published_directory_has_the_labels_and_the_ids_of_coco(published: Path, shared_data: Path) -> None:
    checkpoint = read_checkpoint(published, "Roboflow/rf-detr-seg-medium")
    labeling = settled(checkpoint)
    instances = shared_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    ids = {each["name"]: each["id"] for each in json.loads(instances.read_text())["categories"]}
    assert {each.name: each.dataset_id for each in labeling.categories if each.name != "N/A"} == ids
    assert sum(each.name == "N/A" for each in labeling.categories) == 91 - 80
    assert "those of COCO instance by id, of the published weights, are taken" in labeling.notes[0]
    assert labeling.preprocess.describe() == (
        "96x96 (height x width), aspect ratio not kept, resized without antialias "
        "(as RF-DETR 1.9 does, where a DetrImageProcessor averages)"
    )
    assert settled(checkpoint, preprocess={"size": "paper"}).preprocess.size == ExactSize(height=96, width=96)


def test_labels_without_names_are_not_those_of_coco_elsewhere(published: Path) -> None:
    checkpoint = read_checkpoint(published, "me/rf-detr-mine")
    labeling = settled(checkpoint)
    assert checkpoint.label_set is None and labeling.categories[1].name == "LABEL_1"
    assert "config.json names no labels" in labeling.notes[0]


@pytest.mark.parametrize("name", ["N/A", "background"])
def test_named_labels_are_the_ids_of_coco_whatever_stands_at_0(name: str, published: Path, tmp_path: Path) -> None:
    labels = {str(i): text for i, text in names_of("COCO instance by id").items()} | {"0": name}
    checkpoint = read_checkpoint(changed(published, tmp_path / "m", id2label=labels), "m")
    assert checkpoint.label_set is not None and checkpoint.label_set.name == "COCO instance by id"
    assert [settled(checkpoint).categories[i].dataset_id for i in (1, 13, 90)] == [1, 13, 90]


def test_both_names_of_its_tensors_are_read(model: Path, tmp_path: Path) -> None:
    made = RfDetrForInstanceSegmentation.from_pretrained(model)
    made.save_pretrained(tmp_path / "m", save_original_format=False)
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PROCESSOR))
    read_checkpoint(tmp_path / "m", "m")
    image = torch.rand(1, 3, 96, 96)
    for ours, other in zip(
        load_original(tmp_path / "m")(image).tensors, load_original(model)(image).tensors, strict=True
    ):
        assert torch.equal(ours, other)
    boxes = changed(tmp_path / "m", tmp_path / "boxes", without="spatial_features_proj")
    with pytest.raises(UsageError, match=r"no spatial_features_proj\.bias, so it finds boxes and no masks"):
        read_checkpoint(boxes, "m")


def test_published_weights_have_their_license(model: Path) -> None:
    found = read_checkpoint(model, "Roboflow/rf-detr-seg-medium")
    assert (found.license, found.family) == ("apache-2.0", FAMILY)
