"""SegFormer, UperNet and BEiT: segments against a plain oracle, sizes as published, and what is refused by name."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from support.tiny import upernet
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoConfig

from m2f_batch.config.segment import (
    AspectSize,
    ExactSize,
    ModelConfig,
    PostprocessConfig,
    PreprocessConfig,
    Size,
    SlidingWindow,
)
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import ImageError, RunError, UsageError
from m2f_batch.models.checkpoint import choose_task, read_checkpoint
from m2f_batch.models.families.beit import FAMILY as BEIT
from m2f_batch.models.families.segformer import FAMILY as SEGFORMER
from m2f_batch.models.families.upernet import BACKBONES
from m2f_batch.models.families.upernet import FAMILY as UPERNET
from m2f_batch.models.family import Family
from m2f_batch.models.label_sets import LABEL_SETS
from m2f_batch.models.loading import load_model, load_original, processor_pixel_values
from m2f_batch.models.pixel_families.fast_upernet import FastUperNetForward
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, PreprocessPlan, SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.device.checked_model import image_values, load_checked
from m2f_batch.vision.label_settings import published_windows, settle
from m2f_batch.vision.pixels.opencv import resize_bilinear
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from m2f_batch.vision.segmenter import Segmenter

CPU = torch.device("cpu")
NAMES = ("segformer", "upernet", "upernet_convnext", "beit")
SETS = {known.name: known for known in LABEL_SETS}
SIZES: dict[str, Size | str] = {
    "checkpoint": "checkpoint",
    "edges": AspectSize(shortest_edge=72, longest_edge=110),
    "exact": ExactSize(height=96, width=64),
}
IMAGES = [draw_scene(seed).image[:height, :width] for seed, height, width in ((0, 90, 150), (1, 150, 90), (2, 41, 64))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pixels")
    return {name: import_module(f"support.tiny.{name}").build(folder / name) for name in NAMES}


def oracle(model: Any, values: Tensor, content_hw: SizeHW, output_hw: SizeHW) -> tuple[Tensor, Tensor]:
    """Logits [C, H, W] of transformers' own forward pass, to the canvas, cropped, to the image, and their softmax."""
    logits = interpolate(model(pixel_values=values).logits, size=values.shape[2:], mode="bilinear", align_corners=False)
    content = logits[:, :, : content_hw[0], : content_hw[1]]
    full = interpolate(content, size=output_hw, mode="bilinear", align_corners=False)[0]
    return full, full.softmax(0)


def check_segments(segments: list[Segment], full: Tensor, shares: Tensor) -> int:
    """Hold segments against the oracle's. Returns the pixels of other classes, of which the best two are as good."""
    winner = full.argmax(0).numpy()
    found = np.full(winner.shape, -1)
    for segment in segments:
        mask = segment.mask()
        assert (found[mask] == -1).all()
        found[mask] = segment.category_id
        mean = float(shares[segment.category_id].numpy()[mask].mean(dtype=np.float64))
        assert segment.score == pytest.approx(mean, abs=1e-5)
    other = found != winner
    best = full.topk(2, dim=0).values
    assert ((best[0] - best[1]).numpy()[other] < 1e-4).all()
    areas = [segment.area for segment in segments]
    assert areas == sorted(areas, reverse=True) and sum(areas) == winner.size
    return int(other.sum())


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_segments_are_those_of_the_plain_definition(models: dict[str, Path], name: str, size: str) -> None:
    checkpoint = read_checkpoint(models[name], name)
    labeling = settle(
        checkpoint,
        ModelConfig(uri="m"),
        PreprocessConfig(size=SIZES[size]),
        PostprocessConfig(),  # type: ignore[arg-type]  # pydantic makes it a Size
    )
    theirs = getattr(transformers, checkpoint.family.class_name).from_pretrained(models[name]).eval()
    segmenter = Segmenter(load_model(models[name], CPU), labeling, CPU)
    classes = 0
    for image, segments in zip(IMAGES, segmenter(IMAGES), strict=True):
        made = prepare(image, labeling.preprocess)
        values = pixel_values(made.contents, made.views[0].canvas_hw, labeling.preprocess, CPU)
        if size == "checkpoint":
            own = processor_pixel_values(models[name], image)
            assert own is not None and torch.equal(values, own)
        full, shares = oracle(theirs, values, made.views[0].content_hw, made.output_hw)
        assert check_segments(segments, full, shares) <= 2
        classes += len(segments)
    assert classes > len(IMAGES)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["segformer", "upernet_convnext"])
def test_windows_are_averaged_as_logits(models: dict[str, Path], name: str) -> None:
    """As slide_inference of mmsegmentation does, with windows of 64 pixels at every 40th, the last at the border."""
    checkpoint = read_checkpoint(models[name], name)
    size, window = AspectSize(shortest_edge=80, longest_edge=150), SlidingWindow(size=64, stride=40)
    preprocess = PreprocessConfig(size=size, window=window)
    labeling = settle(checkpoint, ModelConfig(uri="m"), preprocess, PostprocessConfig())
    theirs = getattr(transformers, checkpoint.family.class_name).from_pretrained(models[name]).eval()
    segments = Segmenter(load_model(models[name], CPU), labeling, CPU)(IMAGES)
    for image, found in zip(IMAGES, segments, strict=True):
        values = values_by(labeling.preprocess, image)
        height, width = values.shape[2:]
        total, count = torch.zeros(1, 5, height, width), torch.zeros(1, 1, height, width)
        for y in sorted({min(y, height - 64) for y in range(0, height, 40)}):
            for x in sorted({min(x, width - 64) for x in range(0, width, 40)}):
                logits = theirs(pixel_values=values[:, :, y : y + 64, x : x + 64]).logits
                total[:, :, y : y + 64, x : x + 64] += interpolate(
                    logits, size=(64, 64), mode="bilinear", align_corners=False
                )
                count[:, :, y : y + 64, x : x + 64] += 1
        assert count.max() > 1
        full = interpolate(total / count, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
        assert check_segments(found, full, full.softmax(0)) <= 2


PLAN = SEGFORMER.pixels.own({}, {"image_processor_type": "SegformerImageProcessor"}, "semantic")
CONVNEXT_L = {"backbone_config": {"model_type": "convnext", "hidden_sizes": [192, 384, 768, 1536]}}
CONVNEXT_T = {"backbone_config": {"model_type": "convnext", "hidden_sizes": [96, 192, 384, 768]}}
SWIN = {"backbone_config": {"model_type": "swin"}}
RESNET: dict[str, Any] = {"backbone_config": {"model_type": "resnet"}}
ODD_WIDTHS = {"model_type": "convnext", "hidden_sizes": ["wide"]}
DINAT, VITDET = ({"backbone_config": {"model_type": kind}} for kind in ("dinat", "vitdet"))
SMALL_CITY = {"_name_or_path": "nvidia/segformer-b0-finetuned-cityscapes-512-1024"}
CITY_768 = {"_name_or_path": "nvidia/segformer-b0-finetuned-cityscapes-768-768"}


@pytest.mark.parametrize(
    ("family", "config", "label_set", "edges", "stretch_to", "windows"),
    [
        (SEGFORMER, {"depths": [2, 2, 2, 2]}, "ADE20K", (512, 2048), 32, None),
        (SEGFORMER, {"depths": [3, 6, 40, 3]}, "ADE20K", (640, 2048), 32, None),
        (SEGFORMER, {}, "Cityscapes", (1024, 2048), 1, (1024, 768)),
        (SEGFORMER, CITY_768, "Cityscapes", (768, 1536), 1, (768, 768)),
        (SEGFORMER, SMALL_CITY, "Cityscapes", (512, 1024), 1, None),
        (UPERNET, SWIN, "ADE20K", (512, 2048), 1, None),
        (UPERNET, RESNET, "ADE20K", (512, 2048), 1, None),
        (UPERNET, RESNET, "Cityscapes", (1024, 2048), 1, None),
        (UPERNET, CONVNEXT_T, "ADE20K", (512, 2048), 1, (512, 341)),
        (UPERNET, CONVNEXT_L, "ADE20K", (640, 2560), 1, (640, 426)),
        (BEIT, {}, "ADE20K", (640, 2560), 1, (640, 426)),
    ],
)
def test_published_tests(
    family: Family,
    config: dict[str, Any],
    label_set: str,
    edges: tuple[int, int],
    stretch_to: int,
    windows: tuple[int, int] | None,
) -> None:
    others = replace(PLAN, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) if family is BEIT else PLAN
    plan = family.pixels.paper(config, others, SETS[label_set], "semantic")
    assert plan is not None and plan.size == AspectSize(shortest_edge=edges[0], longest_edge=edges[1])
    assert (plan.rounding, plan.resizing, plan.stretch_to, plan.pad_size) == ("mmcv", "opencv", stretch_to, None)
    assert (plan.rescale_factor, plan.mean, plan.std) == (1 / 255, IMAGENET_MEAN, IMAGENET_STD)
    assert family.pixels.windows is not None
    expected = None if windows is None else SlidingWindow(size=windows[0], stride=windows[1])
    assert family.pixels.windows(config, SETS[label_set], "semantic") == expected
    assert family.pixels.windows(config, None, "semantic") is None


@pytest.mark.parametrize(
    ("family", "config", "label_set"),
    [
        (SEGFORMER, {}, "COCO panoptic"),
        (UPERNET, SWIN, "Cityscapes"),
        (UPERNET, CONVNEXT_T, "Cityscapes"),
        (UPERNET, {"backbone_config": {"model_type": "focalnet"}}, "ADE20K"),
        (BEIT, {}, "Cityscapes"),
    ],
)
def test_no_size_is_made_up_where_none_was_published(family: Family, config: dict[str, Any], label_set: str) -> None:
    assert family.pixels.paper(config, PLAN, SETS[label_set], "semantic") is None
    assert family.pixels.windows is not None and family.pixels.windows(config, SETS[label_set], "semantic") is None


def test_the_name_that_a_user_gives_tells_the_test_too(models: dict[str, Path]) -> None:
    given = read_checkpoint(models["segformer"], "nvidia/segformer-b0-finetuned-cityscapes-768-768@main")
    assert published_windows(given, SETS["Cityscapes"], "semantic") == SlidingWindow(size=768, stride=768)
    local = read_checkpoint(models["segformer"], "/data/cityscapes-768-768/mine")
    assert published_windows(local, SETS["Cityscapes"], "semantic") == SlidingWindow(size=1024, stride=768)


def test_segformer_on_ade20k_is_resized_twice() -> None:
    """As AlignedResize does: to 512x768 by mmcv's rounding for 333x500, and 512x683 to 512x704 for 480x640."""
    plan = SEGFORMER.pixels.paper({}, PLAN, SETS["ADE20K"], "semantic")
    assert plan is not None
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    expected = resize_bilinear(resize_bilinear(image, (512, 683)), (512, 704))
    assert np.array_equal(prepare(image, plan).contents[0], expected)
    assert prepare(image[:160], plan).views[0].canvas_hw == (512, 1024)


def values_by(plan: PreprocessPlan, image: NDArray[np.uint8]) -> Tensor:
    made = prepare(image, plan)
    return pixel_values(made.contents, made.views[0].canvas_hw, plan, CPU)


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("segformer", {"image_processor_type": "SegformerImageProcessor", "size": {"height": 32, "width": 64}}),
        ("segformer", {"feature_extractor_type": "SegformerFeatureExtractor", "size": 64, "reduce_labels": True}),
        ("segformer", {"image_processor_type": "SegformerImageProcessor", "do_resize": False}),
        ("upernet", {"image_processor_type": "SegformerImageProcessor", "size": 64, "do_normalize": False}),
        ("beit", {"image_processor_type": "BeitImageProcessor", "size": 64}),
        ("beit", {"feature_extractor_type": "BeitFeatureExtractor", "size": 64, "do_center_crop": False}),
    ],
)
def test_older_processors(models: dict[str, Path], tmp_path: Path, name: str, processor: dict[str, Any]) -> None:
    directory = tmp_path / name
    shutil.copytree(models[name], directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    checkpoint = read_checkpoint(directory, name)
    plan = checkpoint.family.pixels.own(checkpoint.config, checkpoint.processor, "semantic")
    image = IMAGES[0][:80, :96]
    theirs = processor_pixel_values(directory, image)
    assert theirs is not None and torch.equal(values_by(plan, image), theirs)


@torch.inference_mode()
def test_an_older_beit_has_tables_that_nobody_reads(models: dict[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "beit"
    shutil.copytree(models["beit"], directory)
    tensors = load_file(directory / "model.safetensors")
    for layer in range(4):
        index = f"beit.encoder.layer.{layer}.attention.attention.relative_position_bias.relative_position_index"
        tensors[index] = torch.zeros(65, 65, dtype=torch.int64)
    tensors = {name: value for name, value in tensors.items() if "num_batches_tracked" not in name}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["segmentation_indices"] = config.pop("out_indices")
    del config["out_features"], config["stage_names"]
    (directory / "config.json").write_text(json.dumps(config))
    values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    old, new = (load_model(where, CPU)(values).tensors[0] for where in (directory, models["beit"]))
    assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("name", "size", "allowed"),
    [
        ("beit", ExactSize(height=75, width=104), "multiples of 8"),
        ("segformer", ExactSize(height=16, width=64), "at least 32 pixels"),
        ("upernet", ExactSize(height=64, width=31), "at least 32 pixels"),
    ],
)
def test_sizes_of_which_a_model_would_see_nothing(
    models: dict[str, Path], name: str, size: ExactSize, allowed: str
) -> None:
    with pytest.raises(UsageError, match=rf"preprocess\.size: .*both edges must be {allowed}"):
        settle(
            read_checkpoint(models[name], name), ModelConfig(uri="m"), PreprocessConfig(size=size), PostprocessConfig()
        )


@pytest.mark.parametrize(("name", "size"), [("segformer", 24), ("beit", 60)])
def test_windows_of_which_a_model_would_see_nothing(models: dict[str, Path], name: str, size: int) -> None:
    window = PreprocessConfig(window=SlidingWindow(size=size, stride=size))
    with pytest.raises(UsageError, match=rf"preprocess\.window\.size: {size} is not allowed: both edges must be"):
        settle(read_checkpoint(models[name], name), ModelConfig(uri="m"), window, PostprocessConfig())


def test_beit_sees_every_pixel(models: dict[str, Path]) -> None:
    """transformers computes 75x101 pixels from their top left 72x96, and stretches that over all."""
    checkpoint = read_checkpoint(models["beit"], "beit")
    plan = BEIT.pixels.sized(checkpoint.config, PLAN, AspectSize(shortest_edge=75, longest_edge=101))
    assert (plan.content_size((75, 101)), plan.canvas_size((75, 101))) == ((75, 101), (80, 104))
    assert "position bias interpolated" in plan.describe()


def test_an_image_that_is_too_thin_is_an_error_of_its_own() -> None:
    plan = SEGFORMER.pixels.paper({}, PLAN, SETS["Cityscapes"], "semantic")
    assert plan is not None
    with pytest.raises(ImageError, match="resized to 2048x20, and the model needs 32 pixels"):
        plan.content_size((30, 3000))


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_tasks_with_objects_are_refused_with_the_reason(models: dict[str, Path], task: Any) -> None:
    with pytest.raises(UsageError, match="nothing tells two objects of a class apart; allowed: semantic"):
        choose_task(read_checkpoint(models["segformer"], "m"), task)


@pytest.mark.parametrize("name", ["my-instance-segformer", "segformer-panoptic-tuned"])
def test_a_family_of_one_task_has_it_whatever_its_name_says(models: dict[str, Path], name: str) -> None:
    assert choose_task(read_checkpoint(models["segformer"], name), None) == "semantic"


def changed_config(models: dict[str, Path], tmp_path: Path, name: str, **changes: Any) -> Path:
    directory = tmp_path / "changed"
    shutil.copytree(models[name], directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return directory


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("upernet", DINAT, "the backbone 'dinat' needs the kernels of natten"),
        ("upernet", VITDET, "the backbone 'vitdet' is not supported; UperNet runs"),
        ("beit", {"out_indices": [1, 2], "out_features": None}, "out_indices must name the four layers"),
        ("beit", {"patch_size": [8, 8]}, "patch_size must be a number of pixels"),
        ("segformer", {"num_encoder_blocks": "4"}, "num_encoder_blocks must be a number"),
        ("segformer", {"depths": None}, "depths must be a list of numbers of blocks, not None"),
        ("upernet_convnext", {"backbone_config": ODD_WIDTHS}, "hidden_sizes of backbone_config must be a list"),
    ],
)
def test_what_cannot_be_run_is_named(
    models: dict[str, Path], tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_checkpoint(changed_config(models, tmp_path, name, **changes), "m")


@torch.inference_mode()
def test_a_swin_of_upernet_is_fast_and_checked(models: dict[str, Path]) -> None:
    fast, how = load_checked(models["upernet"], CPU, task="semantic", precision="fp32", threads=1)
    assert (str(how), type(fast).__name__, type(fast.backbone).__name__) == ("fast", "FastUperNet", "FastSwin")
    fast.head.fpn_bottleneck.batch_norm.weight.mul_(1.01)
    parts = FastUperNetForward().compared(load_original(models["upernet"]).model, image_values(CPU))(fast)
    apart = {name for name, ours, theirs in parts if (ours - theirs).abs().max() > 1e-4 * theirs.abs().max()}
    assert apart == {"the logits"}


def test_a_processor_that_crops_is_refused(models: dict[str, Path]) -> None:
    crops = {"image_processor_type": "BeitImageProcessor", "do_center_crop": True, "crop_size": 48, "size": 64}
    with pytest.raises(UsageError, match="would leave the rest of it without labels"):
        BEIT.pixels.own({}, crops, "semantic")
    with pytest.raises(UsageError, match="image processor 'Mask2FormerImageProcessor' is not known"):
        SEGFORMER.pixels.own({}, {"image_processor_type": "Mask2FormerImageProcessor"}, "semantic")


def test_a_missing_tensor_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "segformer"
    shutil.copytree(models["segformer"], directory)
    tensors = load_file(directory / "model.safetensors")
    del tensors["decode_head.linear_c.2.proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"1 tensors are missing .* decode_head\.linear_projections\.2\.proj\.weight"):
        load_model(directory, CPU)


FOUR = {"depths": [1, 1, 1, 1]}
SMALL: dict[str, dict[str, Any]] = {
    "convnextv2": {"hidden_sizes": [8, 8, 16, 16]},
    "focalnet": {"embed_dim": 8, "hidden_sizes": [16, 32, 64, 64], "focal_levels": [1] * 4},
    "pvt_v2": {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16]},
    "swinv2": {"embed_dim": 8, "num_heads": [1, 1, 2, 2], "window_size": 4},
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", SMALL)
def test_other_backbones_run_at_any_size_and_in_batches(kind: str, tmp_path: Path) -> None:
    assert kind in BACKBONES
    config = AutoConfig.for_model(kind, out_features=upernet.STAGES, **FOUR, **SMALL[kind])
    directory = upernet.build(tmp_path / kind, config)
    read_checkpoint(directory, kind)
    model = load_model(directory, CPU)
    theirs = transformers.UperNetForSemanticSegmentation.from_pretrained(directory).eval()
    for size in ((64, 96), (75, 101), (32, 40)):
        values = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
        ours, (expected,) = model(values).tensors[0], upernet.logits(theirs, values)
        within = 1e-5 * max(1.0, float(expected.abs().max()))
        assert torch.allclose(ours, expected, rtol=0, atol=within)
        alone = torch.cat([model(values[i : i + 1]).tensors[0] for i in range(3)])
        assert torch.allclose(ours, alone, rtol=0, atol=within)
