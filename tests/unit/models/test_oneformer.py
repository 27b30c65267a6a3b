"""OneFormer by its own paper's inference, told its task, and without a request to anybody."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.against_oracle import assert_as_defined
from support.tiny import oneformer as tiny
from torch import Tensor
from transformers import OneFormerForUniversalSegmentation

from m2f_batch.config.segment import AspectSize, ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, choose_task, read_checkpoint
from m2f_batch.models.families.oneformer import FAMILY
from m2f_batch.models.fast_layers.swin import FastSwin
from m2f_batch.models.label_sets import LABEL_SETS
from m2f_batch.models.loading import load_original, processor_pixel_values
from m2f_batch.models.mask2former.pixel_decoder import FastPixelDecoder
from m2f_batch.models.oneformer.fast import FORWARD
from m2f_batch.models.oneformer.last_prediction import LastPrediction, with_last_prediction
from m2f_batch.models.oneformer.transformers_model import TASK_IDS, task_ids
from m2f_batch.vision.device.checked_model import image_values, load_checked
from m2f_batch.vision.label_settings import settle
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from m2f_batch.vision.segmenter import Segmenter

SETS = {known.name: known for known in LABEL_SETS}
IMAGE = draw_scene(3).image[:90, :121]
SWIN_L = {"backbone_config": {"model_type": "swin", "embed_dim": 192}}
RESNET = {"backbone_config": {"model_type": "resnet"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("oneformer") / "model")


@pytest.mark.parametrize(
    ("task", "given", "switches"),
    [
        ("panoptic", {"score_threshold": 0.2, "overlap_threshold": 0.1}, {"stuff_ids": {3, 4}}),
        ("instance", {"score_threshold": 0.1}, {"stuff_ids": {3, 4}, "top_k": 12}),
        ("semantic", {}, {"masks_first": True}),
    ],
)
def test_segments_are_those_of_the_definition(model: Path, task: Task, given: Any, switches: Any) -> None:
    theirs = OneFormerForUniversalSegmentation.from_pretrained(model).eval()
    segmenter = Segmenter.from_pretrained(str(model), task=task, **given)

    def logits(model: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        return tiny.logits(model, values, list(TASK_IDS[task]))

    assert assert_as_defined(segmenter, theirs, logits, IMAGE, **given, **switches) >= 2


@torch.inference_mode()
def test_the_task_decides_the_logits_and_must_be_given(model: Path) -> None:
    values = torch.randn(1, 3, 64, 75, generator=torch.Generator().manual_seed(1))
    classes = [load_original(model, task)(values).tensors[0] for task in TASK_IDS]
    assert not any(torch.equal(classes[0], other) for other in classes[1:])
    with pytest.raises(UsageError, match=r"^model.task: is not given.* panoptic, instance, semantic \(--task\)"):
        choose_task(read_checkpoint(model, "m"), None)


@torch.inference_mode()
def test_the_fast_parts_of_mask2former_are_taken_and_checked(model: Path) -> None:
    fast, how = load_checked(model, torch.device("cpu"), task="semantic", precision="fp32", threads=1)
    assert (str(how), type(fast).__name__) == ("fast", "Staged")
    assert isinstance(fast.backbone, FastSwin)
    assert isinstance(fast.pixel_decoder.decoder, FastPixelDecoder)
    fast.pixel_decoder.decoder.mask_projection.weight.mul_(1.01)
    parts = FORWARD.compared(load_original(model, "semantic").model, image_values(torch.device("cpu")))(fast)
    apart = {name for name, ours, theirs in parts if (ours - theirs).abs().max() > 1e-4 * theirs.abs().max()}
    assert apart == {"output 4 of the pixel decoder"}


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 3])
def test_the_last_prediction_is_that_of_transformers(model: Path, count: int) -> None:
    """Equal to the bit, by the same weights: where these lie in memory may change how they are multiplied."""
    whole = OneFormerForUniversalSegmentation.from_pretrained(model).eval()
    values, token = torch.randn(count, 3, 75, 101), task_ids("panoptic", whole.config.task_seq_len)
    level, told = whole.model.pixel_level_module(values), whole.model.task_encoder(token.repeat(count, 1))
    outputs = []
    for change in (lambda _: None, with_last_prediction):
        change(whole)
        output = whole.model.transformer_module(level.decoder_features, level.decoder_last_feature, told)
        outputs.append((output.prediction_class, output.prediction_masks))
    assert isinstance(whole.model.transformer_module.decoder, LastPrediction)
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(NotImplementedError, match="attentions are not kept"):
        whole.model.transformer_module(level.decoder_features, level.decoder_last_feature, told, output_attentions=True)


def test_ids_of_a_task_fill_what_the_model_reads_with_zeros() -> None:
    for task, ids in TASK_IDS.items():
        (found,) = task_ids(task, 77).int().tolist()
        assert found == [*ids, *[0] * (77 - len(ids))]
        assert (found[0], ids[-1]) == (49406, 49407)


def test_top_k_is_the_number_of_queries_and_thresholds_are_those_of_the_label_set() -> None:
    config: dict[str, Any] = {"num_queries": 250}
    assert FAMILY.tasks.settings(config, None, None, "instance")["top_k"] == 250
    assert FAMILY.tasks.settings({}, None, None, "instance")["top_k"] == 150
    thresholds = {name: FAMILY.tasks.settings({}, None, SETS[name], "panoptic") for name in ("ADE20K", "COCO panoptic")}
    assert thresholds["ADE20K"]["score_threshold"] == 0.5
    assert thresholds["COCO panoptic"]["score_threshold"] == 0.8
    assert thresholds["ADE20K"]["overlap_threshold"] == 0.8


@pytest.mark.parametrize(
    ("name", "config", "edges"),
    [
        ("COCO panoptic", SWIN_L, (800, 1333)),
        ("Cityscapes", SWIN_L, (1024, 2048)),
        ("Mapillary Vistas", SWIN_L, (2048, 2048)),
        ("ADE20K", SWIN_L, (640, 2560)),
        ("ADE20K", {}, (512, 2048)),
        ("ADE20K", RESNET, (512, 2048)),
    ],
)
def test_sizes_of_the_paper(name: str, config: dict[str, Any], edges: tuple[int, int]) -> None:
    plan = FAMILY.pixels.paper(config, FAMILY.pixels.own(config, {}, "semantic"), SETS[name], "semantic")
    assert plan is not None
    assert plan.size == AspectSize(shortest_edge=edges[0], longest_edge=edges[1])
    assert (plan.rounding, plan.divisor, plan.round_content) == ("detectron2", 32, False)


def test_pixels_are_those_of_the_processor_which_asks_nobody(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads((model / "preprocessor_config.json").read_text())["class_info_file"], "as published ones"
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a request"))
    theirs = processor_pixel_values(model, IMAGE)
    checkpoint = read_checkpoint(model, "m")
    plan = settle(checkpoint, ModelConfig(uri="m", task="semantic"), PreprocessConfig(), PostprocessConfig()).preprocess
    prepared = prepare(IMAGE, plan)
    assert theirs is not None
    assert theirs.shape[2:] == (64, 86), "made up to no multiples"
    assert torch.equal(pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, torch.device("cpu")), theirs)
    mine = PreprocessConfig(size={"shortest_edge": 64, "longest_edge": 128})  # type: ignore[arg-type]  # pydantic makes it a Size
    own = settle(checkpoint, ModelConfig(uri="m", task="semantic"), mine, PostprocessConfig()).preprocess
    assert own.canvas_size(IMAGE.shape[:2]) == (64, 96)


@torch.inference_mode()
def test_a_model_that_was_saved_in_training_loads_without_its_texts(model: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"is_training": True, "use_auxiliary_loss": False}))
    values = torch.randn(1, 3, 64, 75, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        load_original(model, "panoptic")(values).tensors,
        load_original(changed, "panoptic")(values).tensors,
        strict=True,
    ):
        assert torch.equal(one, other)


def test_the_license_is_that_of_the_published_weights() -> None:
    names = {"id2label": {"0": "a"}, "model_type": "oneformer"}
    assert Checkpoint("shi-labs/oneformer_coco_swin_large", Path(), names, {}).license == "mit"
