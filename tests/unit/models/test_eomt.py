"""EoMT's rules: what it refuses, its pixels and windows, and its own inference, beside what transformers does."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import eomt_definition
from support.hand_made import PROCESSOR
from support.reference import assert_same
from support.tiny import eomt as tiny
from support.tiny import eomt_dinov3 as tiny_dinov3
from transformers import EomtForUniversalSegmentation, EomtImageProcessor

from m2f_batch.config.segment import AspectSize, ExactSize, ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import ImageError, UsageError
from m2f_batch.models.checkpoint import choose_task, read_checkpoint
from m2f_batch.models.eomt import rules
from m2f_batch.models.eomt.small_tensors import small_tensor
from m2f_batch.models.family import whole_weights
from m2f_batch.models.loading import load_original
from m2f_batch.models.source import ModelSource, _ways_out
from m2f_batch.vision.cuts.windows import starts_of
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.prepared import Prepared
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare, prepare_image
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments
from m2f_batch.vision.segmenter import Segmenter

EDGE = tiny.EDGE
EOMT = {**PROCESSOR, "image_processor_type": "EomtImageProcessorFast"}
SHAPES = [(96, 150), (150, 96), (64, 64), (37, 211), (500, 333)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EoMT."""
    return tiny.build(tmp_path_factory.mktemp("eomt") / "m")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "m"))


def set_probabilities(model: Path, *values: float, dtype: torch.dtype = torch.float32) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["attn_mask_probs"] = torch.tensor(values, dtype=dtype)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def set_config(model: Path, **changes: Any) -> None:
    tree = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(tree | changes))


def settled(model: Path, task: Task, **size: Any) -> Labeling:
    checkpoint = read_checkpoint(model, "m")
    return settle(checkpoint, ModelConfig(uri="m", task=task), PreprocessConfig(**size), PostprocessConfig())


# ---- masked attention


@pytest.mark.parametrize("values", [(0.5, 0.0), (1.0, 1e-6), (0.999, 0.999), (float("nan"), 0.0)])
def test_weights_that_were_not_annealed_are_refused(model: Path, values: tuple[float, float]) -> None:
    set_probabilities(model, *values)
    said = ", ".join(f"{value:g}" for value in values)
    with pytest.raises(UsageError) as caught:
        read_checkpoint(model, "mine")
    assert str(caught.value).startswith(
        f"model.uri: the weights of mine: attn_mask_probs is [{said}]: its masked attention is not annealed, and would "
        "be drawn at random for each image; train it to the end, or set all to 0"
    )


def test_transformers_draws_masks_of_such_weights_at_random(model: Path) -> None:
    set_probabilities(model, 0.5, 0.5)
    theirs = EomtForUniversalSegmentation.from_pretrained(model).eval()
    values = torch.randn(1, 3, EDGE, EDGE)
    first, second = (theirs(pixel_values=values).masks_queries_logits for _ in range(2))
    assert (first - second).abs().max() > 1e-2, "the same image twice: the reason for the refusal"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_are_read_from_any_kind_of_float(model: Path, dtype: torch.dtype) -> None:
    set_probabilities(model, -1.0, 0.25, dtype=dtype)
    assert small_tensor([model / "model.safetensors"], "attn_mask_probs") == (-1.0, 0.25)
    assert small_tensor([model / "model.safetensors"], "no_such_tensor") == ()


@pytest.mark.parametrize("build", [tiny.build, tiny_dinov3.build])
@torch.inference_mode()
def test_masked_and_plain_attention_are_those_of_transformers(build: Any, tmp_path: Path) -> None:
    values = torch.randn(2, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(3))
    found = []
    # published differences from DINOv3 begin with 1, so 0 may have become -1
    for at, probabilities in enumerate([(0.0, 0.0), (-1.0, -1.0), (1.0, 1.0)]):
        directory = build(tmp_path / f"{at}", probabilities=probabilities)
        read_checkpoint(directory, "m")
        original = load_original(directory)
        ours, theirs = original(values), tiny.logits(original.model, values)
        for mine, reference in zip(ours.tensors, theirs, strict=True):
            assert (mine - reference).abs().max() <= 1e-5 * max(1, float(reference.abs().max()))
        found.append(ours.tensors[1])
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2], atol=1e-2)


@torch.inference_mode()
def test_a_plain_block_does_not_take_over_the_mask_of_the_block_before(tmp_path: Path) -> None:
    values = torch.randn(1, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(3))
    original = load_original(tiny.build(tmp_path / "m", probabilities=(1.0, 0.0)))
    ours, theirs = original(values).tensors[1], tiny.logits(original.model, values)[1]
    assert (theirs - ours).abs().max() > 1e-3, "transformers masks the second block too, by the first one's mask"
    original.model.layers[2].register_forward_pre_hook(lambda layer, inputs: (inputs[0], None))
    assert (tiny.logits(original.model, values)[1] - ours).abs().max() < 1e-4


def test_weights_without_probabilities_are_refused(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["attn_mask_probs"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"the weights have no attn_mask_probs, .*add zeros if masking was annealed"):
        read_checkpoint(model, "mine")


# ---- config.json, weights, tasks, licenses


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": [64, 64]}, r"image_size must be a number of pixels, not \[64, 64\]"),
        ({"patch_size": 0}, "patch_size must be a number of pixels, not 0"),
        ({"image_size": 60}, "image_size 60 must be a multiple of patch_size 8"),
        ({"num_channels": 4}, "num_channels must be 3, not 4"),
    ],
)
def test_configs_that_cannot_run(model: Path, changes: dict[str, Any], told: str) -> None:
    set_config(model, **changes)
    with pytest.raises(UsageError, match=f"^model.uri: config.json of mine: {told}$"):
        read_checkpoint(model, "mine")


def test_rotary_positions_of_another_kind(tmp_path: Path) -> None:
    model = tiny_dinov3.build(tmp_path / "m")
    set_config(model, rope_parameters={"rope_type": "yarn", "rope_theta": 100.0})
    with pytest.raises(UsageError, match="rope_type 'yarn' is not known to this family; allowed: default"):
        read_checkpoint(model, "mine")
    set_config(model, rope_parameters=None, rope_theta=50.0)  # as transformers 4 wrote it
    assert load_original(model).model.config.rope_parameters["rope_theta"] == 50.0


@torch.inference_mode()
def test_swiglu_weights_of_transformers_4_keep_their_values(tmp_path: Path) -> None:
    model = tiny.build(tmp_path / "m", use_swiglu_ffn=True)
    values = torch.randn(1, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(3))
    expected = load_original(model)(values).tensors[1]
    tensors, old = load_file(model / "model.safetensors"), {}
    for name, tensor in tensors.items():
        if ".gate_proj." in name:
            both = torch.cat([tensor, tensors[name.replace("gate_proj", "up_proj")]])
            old[name.replace("gate_proj", "weights_in")] = both
        elif ".up_proj." not in name:
            old[name.replace("down_proj", "weights_out")] = tensor
    save_file(old, model / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_original(model)(values).tensors[1], expected)
    theirs = EomtForUniversalSegmentation.from_pretrained(model).eval()
    assert (tiny.logits(theirs, values)[1] - expected).abs().max() > 1e-2, "transformers computes with random ones"


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("tue-mps/coco_panoptic_eomt_large_640", "panoptic"),
        ("Tue-MPS/ADE20K_Semantic_EoMT_large_512", "semantic"),
        ("tue-mps/coco_instance_eomt_large_1280@main", "instance"),
        ("tue-mps/eomt-dinov3-coco-instance-large-640", "instance"),
    ],
)
def test_the_task_of_published_names(saved: Path, name: str, task: str) -> None:
    checkpoint = read_checkpoint(saved, name)
    assert choose_task(checkpoint, None) == task
    assert checkpoint.license == "mit"


def test_a_model_of_unknown_training_needs_a_task(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"model.task: .* allowed: instance, semantic, panoptic"):
        choose_task(read_checkpoint(saved, "mine"), None)


@pytest.mark.parametrize(("card", "license"), [("mit", "mit, dinov3-license"), ("dinov3-license", "dinov3-license")])
def test_the_license_of_dinov3_is_said_whatever_the_card_says(tmp_path: Path, card: str, license: str) -> None:
    model = tiny_dinov3.build(tmp_path / "m")
    assert read_checkpoint(model, "mine").license == "unknown, dinov3-license"
    (model / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    assert read_checkpoint(model, "mine").license == license


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("tue-mps/coco_panoptic_eomt_large_1280_dinov3", "tue-mps/eomt-dinov3-coco-panoptic-large-1280"),
        ("tue-mps/ade20k_semantic_eomt_large_512_dinov3@main", "tue-mps/eomt-dinov3-ade-semantic-large-512"),
        ("Tue-MPS/COCO_Panoptic_EoMT_large_1280_DINOv3", "tue-mps/eomt-dinov3-coco-panoptic-large-1280"),
        ("tue-mps/coco_panoptic_eomt_large_1280", None),
    ],
)
def test_published_differences_are_refused_with_the_name_of_the_whole_weights(
    tmp_path: Path, name: str, whole: str | None
) -> None:
    assert whole_weights(name) == whole
    directory = tmp_path / name.rpartition("/")[2]
    directory.mkdir()
    (directory / "pytorch_model.bin").write_bytes(b"")
    told = "it holds what is to be added to the weights of another model; take the whole ones, " if whole else "give a "
    with pytest.raises(UsageError, match=rf"has no config.json; {told}{whole or ''}"):
        read_checkpoint(directory, str(directory) if whole is None else name)


def test_published_differences_on_the_hub_are_refused_likewise() -> None:
    source = ModelSource("tue-mps/coco_panoptic_eomt_small_640_dinov3", "hub", "0123")
    told = _ways_out(source)
    assert "its pytorch_model.bin holds what is to be added to the weights of another model" in told
    assert told.endswith("; take the whole ones, tue-mps/eomt-dinov3-coco-panoptic-small-640")


# ---- pixels and windows


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_pixels_are_those_of_the_original(saved: Path, task: Task) -> None:
    labeling = settled(saved, task)
    for shape in SHAPES:
        image = np.resize(draw_scene(1).image, (*shape, 3))
        expected = eomt_definition.pixel_values(image, EDGE, covers=task == "semantic")
        prepared = prepare(image, labeling.preprocess, labeling.cut)
        views = [view.window for view in prepared.views]
        if task == "panoptic":
            (got,) = pixel_values(prepared.contents, (EDGE, EDGE), labeling.preprocess, CPU).numpy()
            assert abs(got - expected).max() < 1.5 / 255 / 0.224, "a level at most, where Pillow and torch round apart"
            continue
        is_tall = shape[0] > shape[1]
        starts = eomt_definition.window_starts(max(expected.shape[1:]), EDGE)
        assert [view[0 if is_tall else 1] for view in views] == starts
        assert all(view.canvas_hw == (EDGE, EDGE) for view in prepared.views)
        for start, content in zip(starts, prepared.contents, strict=True):
            (got,) = pixel_values([content], (EDGE, EDGE), labeling.preprocess, CPU).numpy()
            part = expected[:, start : start + EDGE] if is_tall else expected[:, :, start : start + EDGE]
            assert abs(got - part).max() < 1.5 / 255 / 0.224


def test_sizes_are_rounded_otherwise_than_by_transformers() -> None:
    config, processor = {"image_size": 640}, EomtImageProcessor(size={"shortest_edge": 640, "longest_edge": 640})
    plan = rules.pixels(config, EOMT, "panoptic")
    assert plan.content_size((49, 642)) == (49, 640)
    theirs = processor(np.zeros((49, 642, 3), np.uint8), return_tensors="pt", do_pad=False)["pixel_values"][0]
    assert tuple(theirs.shape[1:]) == (49, 642), "wider than the canvas: the model does not run"
    plan = rules.pixels(config, EOMT, "semantic")
    assert plan.content_size((427, 640)) == (640, 959)
    processor = EomtImageProcessor(size={"shortest_edge": 640, "longest_edge": None})
    theirs = processor(np.zeros((427, 641, 3), np.uint8), return_tensors="pt")["pixel_values"][0]
    assert tuple(theirs.shape[1:]) == (640, 960) != plan.content_size((427, 641)) == (640, 961)


@pytest.mark.parametrize("is_tall", [True, False])
def test_thinner_images_than_64_windows_are_errors_and_cost_nothing(saved: Path, is_tall: bool) -> None:
    labeling = settled(saved, "semantic")

    def prepared(length: int, width: int) -> Prepared | ImageError:
        shape = (length, width, 3) if is_tall else (width, length, 3)
        return prepare_image(np.zeros(shape, np.uint8), labeling.preprocess, 10**6, labeling.cut)

    most = prepared(128, 2)
    assert isinstance(most, Prepared) and len(most.views) == 64
    for thin in (prepared(129, 2), prepared(5000, 1)):
        assert isinstance(thin, ImageError) and (thin.stage, thin.reason) == ("preprocess", "TooThin")
        assert str(thin).endswith("and the longest edge that is computed is 4096 pixels")
    assert labeling.facts("f", 1, 1)["preprocess"]["most_edge"] == 4096  # type: ignore[index]
    assert "most_edge" not in settled(saved, "panoptic").preprocess.facts()


def test_the_plan_says_what_is_done(saved: Path) -> None:
    assert settled(saved, "panoptic").preprocess.describe() == (
        "shortest / longest edge 64 / 64, rounded to the nearest, padded with black to 64x64 (as the original does, "
        "not as transformers' image processor)"
    )
    plan = settled(saved, "semantic").preprocess
    assert plan.describe().startswith("shortest / longest edge 64, rounded to the nearest (as the original")
    assert settled(saved, "panoptic", size="checkpoint").preprocess == settled(saved, "panoptic").preprocess


def test_no_other_size_can_be_seen(saved: Path) -> None:
    exact = settled(saved, "instance", size=ExactSize(height=64, width=64)).preprocess
    assert exact.canvas_size((10, 30)) == exact.content_size((10, 30)) == (64, 64)
    with pytest.raises(UsageError, match=r"^preprocess.size: .* is not what this model can see, which is 64x64 pixels"):
        settled(saved, "instance", size=AspectSize(shortest_edge=64, longest_edge=128))


# ---- inference


def random_logits(generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Class logits [Q, C + 1] and smooth mask logits [Q, h, w] of an image of some size."""
    queries, classes = int(generator.integers(1, 12)), int(generator.integers(2, 5))
    class_logits = torch.from_numpy(generator.normal(scale=5, size=(queries, classes + 1)).astype(np.float32))
    coarse = torch.from_numpy(generator.normal(scale=6, size=(1, queries, 4, 4)).astype(np.float32))
    masks = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")[0]
    return class_logits, masks, (int(generator.integers(20, 120)), int(generator.integers(20, 120)))


@pytest.mark.parametrize("seed", range(20))
def test_panoptic_and_instance_are_those_of_the_original(seed: int) -> None:
    class_logits, masks, image_hw = random_logits(np.random.default_rng(seed))
    plan = rules.pixels({"image_size": EDGE}, EOMT, "panoptic")
    frame = Frame(plan.canvas_size(image_hw), plan.content_size(image_hw), image_hw)._asdict()
    stuff = frozenset({1}) if seed % 2 else frozenset()
    full = eomt_definition.full_masks(masks, image_hw, EDGE)
    assert_same(
        panoptic_segments(class_logits, masks, **frame, stuff_ids=stuff),
        eomt_definition.panoptic(class_logits, full, stuff),
    )
    got = instance_segments(class_logits, masks, **frame, score_threshold=0.0, stuff_ids=stuff)
    assert_same(got, eomt_definition.instances(class_logits, full, stuff))


@torch.inference_mode()
def test_semantic_averages_the_scores_of_windows_as_the_original_does(saved: Path) -> None:
    segmenter = Segmenter.from_pretrained(str(saved), task="semantic")
    labeling, theirs = segmenter.labeling, EomtForUniversalSegmentation.from_pretrained(saved).eval()
    for shape in SHAPES:
        image = np.resize(draw_scene(3).image, (*shape, 3))
        prepared = prepare(image, labeling.preprocess, labeling.cut)
        windows = []
        for content in prepared.contents:
            class_logits, masks = tiny.logits(theirs, pixel_values([content], (EDGE, EDGE), labeling.preprocess, CPU))
            windows.append((class_logits[0], masks[0]))
        assert_same(segmenter([image])[0], eomt_definition.semantic(windows, shape, EDGE))


def test_the_last_window_ends_at_the_border_where_rounding_would_miss_it(saved: Path) -> None:
    lengths = [length for length in range(641, 6000) if original_starts(length, 640)[-1] + 640 < length]
    assert lengths[0] / 640 > 6.9, "from 7:1 on"
    for length in lengths[:20]:
        (last, before) = starts_of(length, 640, None)[-1], original_starts(length, 640)[-1]
        assert (last, before) == (length - 640, length - 641), "the original gives NaN for the last pixel"


def original_starts(length: int, edge: int) -> list[int]:
    """Where windows begin in ``window_imgs_semantic``, rounding included."""
    count = -(-length // edge)
    overlap = (count * edge - length) / (count - 1)
    return [int(j * (edge - overlap)) for j in range(count)]


@pytest.mark.parametrize(
    ("task", "published"),
    [
        ("panoptic", {"size": {"longest_edge": 64, "shortest_edge": 64}, "do_pad": True, "do_split_image": False}),
        ("semantic", {"size": {"longest_edge": None, "shortest_edge": 64}, "do_pad": False, "do_split_image": True}),
        # of published semantic weights with DINOv3
        ("semantic", {"size": {"longest_edge": 64, "shortest_edge": 64}, "do_pad": True, "do_split_image": False}),
    ],
)
def test_image_processors_as_transformers_4_wrote_them(model: Path, task: Task, published: dict[str, Any]) -> None:
    expected = settled(model, task)
    idle = dict.fromkeys(
        ["crop_size", "device", "disable_grouping", "do_center_crop", "do_convert_rgb", "ignore_index"]
    )
    old = {
        "default_to_square": False,
        "image_processor_type": "EomtImageProcessorFast",
        "resample": 2,
        "do_rescale": True,
    }
    (model / "preprocessor_config.json").write_text(json.dumps(idle | old | published))
    assert settled(model, task) == expected
