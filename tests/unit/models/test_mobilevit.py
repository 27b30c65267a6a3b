"""The rules of MobileViT and MobileViTv2 with DeepLabV3: pixels, features of odd sizes, and the way to the image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import mobilevit, mobilevitv2
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as tvF
from transformers import MobileViTV2ForSemanticSegmentation

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.errors import ImageError, UsageError
from m2f_batch.models.checkpoint import Checkpoint, choose_task, read_checkpoint
from m2f_batch.models.families.mobilevit import FAMILY as FIRST
from m2f_batch.models.families.mobilevitv2 import FAMILY as SECOND
from m2f_batch.models.family import Family
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.loading import load_original
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.pixels.opencv import resize_bilinear
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare

VOC = LabelSet("Pascal VOC", 21, (), frozenset(), tuple(range(21)))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mobilevit.build(tmp_path_factory.mktemp("mobilevit") / "m")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mobilevitv2.build(tmp_path_factory.mktemp("mobilevitv2") / "m")


def settled(checkpoint: Checkpoint, **preprocess: Any) -> Labeling:
    return settle(
        checkpoint,
        ModelConfig(uri="m"),
        check_config(PreprocessConfig, preprocess),
        check_config(PostprocessConfig, {}),
    )


def values_of(image: np.ndarray, labeling: Labeling) -> Tensor:
    made = prepare(image, labeling.preprocess)
    return pixel_values(made.contents, made.views[0].canvas_hw, labeling.preprocess, torch.device("cpu"))


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_first_sees_all_of_the_image_as_a_square_of_blue_green_and_red(first: Path) -> None:
    image, labeling = photo(90, 150), settled(read_checkpoint(first, "m"))
    expected = torch.from_numpy(resize_bilinear(image, (64, 64))[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    assert torch.allclose(values_of(image, labeling), expected, atol=1e-7)
    assert (labeling.task, labeling.postprocess) == ("semantic", {"upsampling": "nearest"})
    text = labeling.preprocess.describe()
    assert text.startswith(
        "64x64 (height x width), aspect ratio not kept, resized as OpenCV does, blue first (as ml-cv"
    )


def test_the_second_sees_all_of_the_image_with_its_ratio_and_red_first(second: Path) -> None:
    image, labeling = photo(90, 150), settled(read_checkpoint(second, "m"))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = tvF.resize(planes, [64, 106], antialias=True) / 255  # 106.67, cut
    assert torch.allclose(values_of(image, labeling), expected, atol=1e-7)
    assert (labeling.task, labeling.postprocess) == ("semantic", {"upsampling": "corners"})
    assert "shortest / longest edge 64" in labeling.preprocess.describe()


def test_an_image_that_the_second_would_stretch_beyond_bounds_is_an_error() -> None:
    plan = SECOND.pixels.paper({}, SECOND.pixels.own({}, {}, "semantic"), VOC, "semantic")
    assert plan is not None and plan.content_size((2, 128)) == (512, 32768)
    with pytest.raises(ImageError, match="the longest edge that is computed is 32768 pixels") as caught:
        plan.content_size((1, 65))
    assert (caught.value.stage, caught.value.reason) == ("preprocess", "TooThin")


def test_published_sizes_are_512_pixels(first: Path, second: Path) -> None:
    square = FIRST.pixels.paper({}, settled(read_checkpoint(first, "m")).preprocess, VOC, "semantic")
    assert square is not None and (square.canvas_size((90, 150)), square.is_bgr) == ((512, 512), True)
    wide = SECOND.pixels.paper({}, settled(read_checkpoint(second, "m")).preprocess, VOC, "semantic")
    assert wide is not None and (wide.canvas_size((90, 150)), wide.is_bgr) == ((512, 853), False)


@pytest.mark.parametrize(
    ("processor", "side", "is_bgr"),
    [
        ({"feature_extractor_type": "MobileViTFeatureExtractor", "crop_size": 48, "size": 56}, 48, True),
        ({"image_processor_type": "MobileViTImageProcessor"}, 256, True),
        ({"crop_size": {"height": 80, "width": 80}, "do_flip_channel_order": False}, 80, False),
        ({"do_center_crop": True, "crop_size": 48, "size": {"shortest_edge": 56, "longest_edge": 90}}, 48, True),
        ({"do_center_crop": False, "size": {"height": 512, "width": 512}}, 512, True),
        ({"do_center_crop": False, "crop_size": 48, "size": {"shortest_edge": 56}}, 56, True),
        ({"do_center_crop": False, "size": 64, "rescale_factor": None}, 64, True),
    ],
)
def test_the_crop_of_a_processor_is_the_size_unless_it_crops_nothing(processor: Any, side: int, is_bgr: bool) -> None:
    plan = FIRST.pixels.own({}, processor, "semantic")
    assert (plan.canvas_size((5, 7)), plan.is_bgr) == ((side, side), is_bgr)
    assert SECOND.pixels.own({}, processor, "semantic").content_size((10, 20)) == (side, 2 * side)


@pytest.mark.parametrize("family", [FIRST, SECOND])
def test_pixels_are_scaled_as_the_processor_scales_them(family: Family) -> None:
    def scales(processor: dict[str, Any]) -> list[float | None]:
        plan = family.pixels.own({}, processor, "semantic")
        paper = family.pixels.paper({}, plan, VOC, "semantic")
        assert paper is not None
        return [plan.rescale_factor, paper.rescale_factor]

    assert scales({}) == [1 / 255, 1 / 255]
    assert scales({"rescale_factor": 0.5}) == [0.5, 0.5]
    assert scales({"rescale_factor": 0.5, "do_rescale": False}) == [None, None]


def test_a_checkpoint_of_version_4_is_seen_as_it_was_made(first: Path, tmp_path: Path) -> None:
    for file in first.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((first / "config.json").read_text()) | {"torch_dtype": "float32", "mlp_ratio": 2}
    config.pop("dtype", None)
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "4.24.0"}))
    old = {"feature_extractor_type": "MobileViTFeatureExtractor", "crop_size": 64, "size": 72, "resample": 2}
    old |= {"do_center_crop": True, "do_flip_channel_order": True, "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    image, made = photo(90, 150), [read_checkpoint(folder, "m") for folder in (first, tmp_path)]
    values = [values_of(image, settled(each)) for each in made]
    assert torch.equal(*values)
    logits = [load_original(each.directory)(values[0]).tensors[0] for each in made]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "image processor 'ViTImageProcessor' is not known; allowed: "),
        ({"crop_size": "large"}, "the image processor's crop_size 'large' is not allowed"),
    ],
)
def test_a_processor_that_means_nothing_is_refused(processor: Any, told: str) -> None:
    for family in (FIRST, SECOND):
        with pytest.raises(UsageError, match=f"^model.uri: {told}"):
            family.pixels.own({}, processor, "semantic")


def test_it_says_why_it_finds_no_objects() -> None:
    for family in (FIRST, SECOND):
        checkpoint = Checkpoint("m", Path(), {"model_type": family.model_type, "id2label": {"0": "a"}}, {})
        told = f"^model.task: 'instance' is nothing that {family.name} does: .* tells two objects of a class apart"
        with pytest.raises(UsageError, match=told):
            choose_task(checkpoint, "instance")


@pytest.mark.parametrize("size", [{"height": 64, "width": 72}, {"shortest_edge": 64, "longest_edge": 128}])
def test_the_first_is_given_multiples_of_its_stride_alone(first: Path, size: dict[str, int]) -> None:
    checkpoint = read_checkpoint(first, "m")
    with pytest.raises(UsageError, match=r"^preprocess.size: .*multiples of its output stride, 16$"):
        settled(checkpoint, size=size)
    assert settled(checkpoint, size={"height": 64, "width": 80}).preprocess.canvas_size((9, 9)) == (64, 80)


def test_an_output_stride_that_cannot_be_is_refused(first: Path, tmp_path: Path) -> None:
    for file in first.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((first / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"output_stride": 4}))
    with pytest.raises(UsageError, match=r"config.json of m: output_stride must be 8, 16 or 32, not 4"):
        read_checkpoint(tmp_path, "m")


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 106), (64, 80), (81, 64), (112, 144)])
def test_features_of_an_odd_size_are_made_up_to_whole_patches(second: Path, size: tuple[int, int]) -> None:
    """As the original's ``resize_input_if_needed`` before each attention layer, put into transformers' modules here."""
    values = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ours = load_original(second)(values).tensors[0]
    plain = MobileViTV2ForSemanticSegmentation.from_pretrained(second).eval()
    canvas = interpolate(values, size=[length // 16 * 16 for length in size], mode="bilinear", align_corners=True)
    blanked = plain(pixel_values=canvas).logits
    for layer in plain.mobilevitv2.encoder.layer[2:]:
        layer.conv_kxk.register_forward_pre_hook(lambda module, inputs: (_evened(inputs[0]),))
    expected = plain(pixel_values=canvas).logits
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)
    is_odd = any(length // 16 % 2 for length in size)
    assert is_odd == (blanked.shape != ours.shape or not torch.allclose(blanked, ours, atol=1e-2))


def _evened(features: Tensor) -> Tensor:
    height, width = (length + length % 2 for length in features.shape[-2:])
    return interpolate(features, size=(height, width), mode="bilinear", align_corners=True)


def test_published_weights_have_their_license(first: Path, second: Path) -> None:
    assert read_checkpoint(first, "apple/deeplabv3-mobilevit-small").license == "apple-amlr"
    assert read_checkpoint(second, "apple/mobilevitv2-1.0-voc-deeplabv3").license == "apple-amlr"
