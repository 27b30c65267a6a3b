"""MaskFormer by its own paper's inference, and what transformers does otherwise."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.against_oracle import assert_as_defined
from support.tiny import maskformer as tiny
from transformers import MaskFormerForInstanceSegmentation, ResNetConfig

from m2f_batch.config.segment import AspectSize, ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, choose_task, read_checkpoint
from m2f_batch.models.families.maskformer import FAMILY
from m2f_batch.models.fast_layers.swin import FastSwin
from m2f_batch.models.label_sets import LABEL_SETS
from m2f_batch.models.loading import load_model, load_original
from m2f_batch.models.maskformer.fast import FORWARD, FastPyramid
from m2f_batch.models.published.licenses import TERMS
from m2f_batch.vision.device.checked_model import image_values, load_checked
from m2f_batch.vision.label_settings import settle
from m2f_batch.vision.segmenter import Segmenter

SETS = {known.name: known for known in LABEL_SETS}
CONFIG: dict[str, Any] = {"model_type": "maskformer", "id2label": {"0": "cat", "1": "dog"}}
IMAGE = draw_scene(3).image[:90, :121]


def config_of(set_name: str, **more: Any) -> dict[str, Any]:
    """A config with the labels of a known set."""
    known = SETS[set_name]
    names = {str(i): f"label {i}" for i in range(known.size)} | {str(i): name for i, name in known.marks}
    return CONFIG | {"id2label": names} | more


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("maskformer") / "model")


@pytest.mark.parametrize(
    ("task", "given", "switches"),
    [
        ("panoptic", {"score_threshold": 0.3, "overlap_threshold": 0.2}, {"keep_unsure": True, "stuff_ids": {3, 4}}),
        ("semantic", {}, {}),
    ],
)
def test_segments_are_those_of_the_definition(model: Path, task: Task, given: Any, switches: Any) -> None:
    theirs = MaskFormerForInstanceSegmentation.from_pretrained(model).eval()
    segmenter = Segmenter.from_pretrained(str(model), task=task, **given)
    assert assert_as_defined(segmenter, theirs, tiny.logits, IMAGE, **given, **switches) >= 2


def test_a_panoptic_checkpoint_grows_masks_before_it_sums_classes(model: Path, tmp_path: Path) -> None:
    named = shutil.copytree(model, tmp_path / "mine-panoptic")
    theirs = MaskFormerForInstanceSegmentation.from_pretrained(model).eval()
    segmenter = Segmenter.from_pretrained(str(named), task="semantic")
    assert segmenter.labeling.postprocess == {"masks_first": True}
    assert assert_as_defined(segmenter, theirs, tiny.logits, IMAGE, masks_first=True) >= 2


def test_instance_is_refused_with_the_reason(model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Segmenter.from_pretrained(str(model), task="instance")
    told = "task: 'instance' is nothing that MaskFormer does: its paper and its code know no instance results"
    assert str(caught.value).startswith(told)
    assert "panoptic, semantic" in str(caught.value)


def test_tasks_are_those_that_training_allows() -> None:
    assert FAMILY.tasks.able(CONFIG, None, None) == ("panoptic", "semantic")
    assert FAMILY.tasks.able(CONFIG, None, SETS["COCO panoptic"]) == ("panoptic", "semantic")
    assert FAMILY.tasks.able(CONFIG, None, SETS["ADE20K"]) == ("semantic",)
    assert FAMILY.tasks.able(CONFIG, "panoptic", SETS["ADE20K"]) == ("panoptic", "semantic")
    assert FAMILY.tasks.able(CONFIG, "semantic", None) == ("semantic",)
    published = Checkpoint("facebook/maskformer-swin-base-ade", Path(), config_of("ADE20K"), {})
    assert choose_task(published, None) == "semantic"
    assert published.license == "cc-by-nc-4.0"


def test_thresholds_are_those_of_the_label_set() -> None:
    coco, ade = (FAMILY.tasks.settings(config_of(n), None, SETS[n], "panoptic") for n in ("COCO panoptic", "ADE20K"))
    assert coco == {"score_threshold": 0.8, "mask_threshold": 0.5, "overlap_threshold": 0.8, "keep_unsure": True}
    assert ade == coco | {"score_threshold": 0.7}
    assert FAMILY.tasks.settings(config_of("COCO panoptic"), None, SETS["COCO panoptic"], "semantic")["masks_first"]
    assert FAMILY.tasks.settings(config_of("ADE20K"), None, SETS["ADE20K"], "semantic") == {}


@pytest.mark.parametrize(
    ("processor", "divisor", "canvas_hw"),
    [
        ({"size_divisibility": 0}, 0, (800, 1066)),
        ({"size_divisibility": 32}, 32, (800, 1088)),
        ({"size_divisibility": 64}, 64, (832, 1088)),
        ({"size_divisor": 16, "size_divisibility": 0}, 16, (800, 1072)),
        ({}, 32, (800, 1088)),
    ],
)
def test_a_legacy_size_divisibility_counts_and_stretches(
    processor: dict[str, Any], divisor: int, canvas_hw: tuple[int, int]
) -> None:
    old = {"feature_extractor_type": "MaskFormerFeatureExtractor", "size": 800, "max_size": 1333} | processor
    plan = FAMILY.pixels.own(CONFIG, old, "semantic")
    assert plan.divisor == divisor
    assert plan.content_size((480, 640)) == plan.canvas_size((480, 640)) == canvas_hw
    assert ("of an older transformers" in plan.note) == (divisor in (0, 64))
    assert plan.size == AspectSize(shortest_edge=800, longest_edge=1333)


def test_nothing_is_added_to_an_image_on_coco() -> None:
    plan = FAMILY.pixels.own(config_of("COCO panoptic"), {"size": 800, "size_divisor": 32}, "panoptic")
    assert "nothing is added, as in MaskFormer's own test on COCO" in plan.describe()
    assert plan.canvas_size((480, 640)) == plan.content_size((480, 640)) == (800, 1066)
    assert FAMILY.pixels.own(CONFIG, {"size": 800}, "panoptic").canvas_size((480, 640)) == (800, 1088)


def test_assumed_labels_are_as_good_as_those_of_its_config() -> None:
    config = CONFIG | {"id2label": {str(i): f"LABEL_{i}" for i in range(133)}}
    found = Checkpoint("facebook/maskformer-swin-base-coco", Path(), config, {"size": 800, "size_divisor": 32})
    labeling = settle(found, ModelConfig(uri="m", task="semantic"), PreprocessConfig(), PostprocessConfig())
    assert labeling.assumed_labels == "COCO panoptic"
    assert labeling.postprocess == {"masks_first": True}
    assert labeling.preprocess.canvas_size((480, 640)) == (800, 1066), "nothing is added"


def test_panoptic_of_labels_that_are_published_semantic_is_asked_for_in_the_config() -> None:
    mine = Checkpoint("me/maskformer-mine", Path(), config_of("Cityscapes"), {})
    with pytest.raises(UsageError) as caught:
        choose_task(mine, "panoptic")
    assert str(caught.value) == (
        "model.task: 'panoptic' is not what is known of me/maskformer-mine, whose labels are those of Cityscapes, of "
        "which published models are semantic; allowed: semantic; if it was trained for panoptic, write "
        '"task": "panoptic" in its config.json'
    )
    assert choose_task(replace(mine, config=mine.config | {"task": "panoptic"}), "panoptic") == "panoptic"


def test_the_segmenter_warns_of_labels_without_names_and_of_terms(model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {i: f"LABEL_{i}" for i in config["id2label"]}
    (bare / "config.json").write_text(json.dumps(config))
    (bare / "README.md").write_text("---\nlicense: apple-amlr\n---\n")
    with pytest.warns(UserWarning) as told:
        Segmenter.from_pretrained(str(bare), task="semantic")
    texts = [str(each.message) for each in told]
    assert [text.split(",")[0] for text in texts] == ["config.json names no labels", TERMS["apple-amlr"].split(",")[0]]
    assert all(each.filename == __file__ for each in told)


def test_sizes_of_the_paper() -> None:
    def edges(name: str, task: Task, **more: Any) -> tuple[int, int | None] | None:
        config = config_of(name, **more)
        plan = FAMILY.pixels.paper(config, FAMILY.pixels.own(config, {}, task), SETS[name], task)
        if plan is None:
            return None
        assert isinstance(plan.size, AspectSize)
        assert (plan.rounding, plan.divisor) == ("detectron2", 0 if name == "COCO panoptic" else 32)
        return plan.size.shortest_edge, plan.size.longest_edge

    large = {"backbone_config": {"model_type": "swin", "embed_dim": 128}}
    assert edges("COCO panoptic", "panoptic") == (800, 1333)
    assert edges("ADE20K", "semantic") == (512, 2048)
    assert edges("ADE20K", "semantic", **large) == edges("ADE20K", "panoptic") == (640, 2560)
    assert edges("Cityscapes", "semantic") == (1024, 2048)
    assert edges("Mapillary Vistas", "semantic") == (2048, 2048)


@torch.inference_mode()
def test_neither_auxiliary_outputs_nor_normed_states_change_an_answer(model: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"use_auxiliary_loss": True, "output_auxiliary_logits": True}
    config["decoder_config"] |= {"auxiliary_loss": True}
    (changed / "config.json").write_text(json.dumps(config))
    values = torch.randn(1, 3, 64, 75, generator=torch.Generator().manual_seed(1))
    one, other = (load_original(place)(values) for place in (model, changed))
    for plain, kept in zip(one.tensors, other.tensors, strict=True):
        assert torch.equal(plain, kept)


@torch.inference_mode()
def test_the_fast_parts_are_taken_and_checked(model: Path) -> None:
    fast, how = load_checked(model, torch.device("cpu"), task="panoptic", precision="fp32", threads=1)
    assert (str(how), type(fast).__name__) == ("fast", "Staged")
    assert isinstance(fast.backbone, FastSwin)
    assert isinstance(fast.pixel_decoder, FastPyramid)
    fast.pixel_decoder.mask_projection.weight.mul_(1.01)
    parts = FORWARD.compared(load_original(model).model, image_values(torch.device("cpu")))(fast)
    apart = {name for name, ours, theirs in parts if (ours - theirs).abs().max() > 1e-4 * theirs.abs().max()}
    assert apart == {"output 2 of the pixel decoder"}


@torch.inference_mode()
def test_a_resnet_backbone_runs(tmp_path: Path) -> None:
    size = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    theirs = tiny.model_of(ResNetConfig(**size, out_features=tiny.STAGES))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert read_checkpoint(tmp_path, "m").family is FAMILY
    values = torch.randn(1, 3, 64, 96)
    expected = tiny.logits(theirs, values)
    for ours, reference in zip(load_original(tmp_path)(values).tensors, expected, strict=True):
        assert torch.equal(ours, reference)
    fast, exact = load_model(tmp_path, torch.device("cpu")).double(), tiny.logits(theirs.double(), values.double())
    for ours, reference in zip(fast(values.double()).tensors, exact, strict=True):
        assert torch.allclose(ours, reference, atol=1e-9, rtol=1e-9)


def test_what_cannot_be_built_is_a_line(model: Path, tmp_path: Path) -> None:
    for changes, told in (
        ({"decoder_config": 3}, "decoder_config must be an object, not 3"),
        ({"decoder_config": {"model_type": "bert"}}, "decoder_config.model_type must be detr, not 'bert'"),
        ({"backbone_config": "swin"}, "backbone_config must be an object, not 'swin'"),
        ({"backbone_config": {"model_type": "dinat"}}, "the backbone 'dinat' needs the kernels of natten"),
        ({"backbone_config": None, "backbone": "resnet18"}, "backbone 'resnet18' is no model of timm in the weights"),
    ):
        broken = shutil.copytree(model, tmp_path / "m", dirs_exist_ok=True)
        config = json.loads((model / "config.json").read_text()) | changes
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=f"^model.uri: config.json of m: {told}"):
            read_checkpoint(broken, "m")
