"""Pixels of families that are not resized, padded or ordered as Mask2Former's are."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from m2f_batch.config.segment import AspectSize, ExactSize, Normalization
from m2f_batch.explain.pictures import seen_by_model
from m2f_batch.models.preprocess_plan import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PreprocessPlan,
    SizeHW,
    with_normalization,
    with_size,
)
from m2f_batch.vision.pixels.opencv import resize_bilinear
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare

PLAN = PreprocessPlan(AspectSize(shortest_edge=64, longest_edge=256), 1, False, 2, 1 / 255, None, None, None)
CPU = torch.device("cpu")
# SHA-256 of cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR) of opencv-python-headless 4.10.0.84
BY_OPENCV = {
    ((40, 61), (64, 98)): "464de09a60cbf1101c479824b1c4dc422987ffa48ad6d5b4c0f044a0cd0c7ef1",
    ((45, 61), (77, 98)): "2ba7fb0d636aace3ab405c97e77841ed9bffe201fd583825e7dea6120758c195",
    ((64, 98), (64, 128)): "da40e94fb2a5b13f1e4b27cf5c3682680c871394929fa832e8224ae802cf1382",
    ((123, 77), (41, 33)): "18d559342153712e2c15e0b92f2e97b458e3db3df8e21eadcc1cb4b755bc6e58",
    ((5, 300), (1, 64)): "76ec3dbbd59df798b3d4e7eee6785ab5f802b0a22ccf54989067bc35d412cad7",
    ((1, 1), (3, 4)): "2eee90cc8ea22cf44e398c5e39d34214ff9ff32e7f795c17ac3db98e95fcac99",
}


def noise(size_hw: SizeHW) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(size_hw)).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def values_of(image: NDArray[np.uint8], plan: PreprocessPlan) -> torch.Tensor:
    made = prepare(image, plan)
    return pixel_values(made.contents, made.views[0].canvas_hw, plan, CPU)[0]


@pytest.mark.parametrize("sizes", BY_OPENCV, ids=str)
def test_opencv_is_met_to_the_bit(sizes: tuple[SizeHW, SizeHW]) -> None:
    image, (height, width) = noise(sizes[0]), sizes[1]
    resized = resize_bilinear(image, (height, width))
    assert resized.shape == (height, width, 3)
    assert hashlib.sha256(resized.tobytes()).hexdigest() == BY_OPENCV[sizes]


@pytest.mark.parametrize(
    ("image_hw", "mmcv", "nearest"),
    [
        ((480, 640), (64, 85), (64, 85)),
        ((333, 500), (64, 96), (64, 96)),
        ((100, 1000), (26, 256), (26, 256)),  # 25.6
        ((25, 512), (13, 256), (12, 256)),  # 12.5: up in one, to the even number in the other
        ((64, 64), (64, 64), (64, 64)),
    ],
)
def test_edges_are_rounded_as_each_family_does(image_hw: SizeHW, mmcv: SizeHW, nearest: SizeHW) -> None:
    assert replace(PLAN, rounding="mmcv").content_size(image_hw) == mmcv
    assert replace(PLAN, rounding="round").content_size(image_hw) == nearest


def test_a_second_resize_leads_to_multiples() -> None:
    plan = replace(PLAN, rounding="mmcv", resizing="opencv", stretch_to=32)
    image = noise((48, 70))
    assert plan.sizes((48, 70)) == ((64, 93), (64, 96)) and plan.canvas_size((48, 70)) == (64, 96)
    assert plan.sizes((48, 72)) == ((64, 96),)
    twice = resize_bilinear(resize_bilinear(image, (64, 93)), (64, 96))
    content = prepare(image, plan).contents[0]
    assert np.array_equal(content, twice)
    assert not np.array_equal(content, resize_bilinear(image, (64, 96)))


def test_torch_samples_where_pillow_averages() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2] = 255  # every other row
    plan = replace(PLAN, size=ExactSize(height=2, width=2))
    averaged, sampled = prepare(image, plan).contents[0], prepare(image, replace(plan, resizing="torch")).contents[0]
    assert set(sampled.flatten()) == {127.5}, "nor does it round"
    assert averaged[0, 0, 0] > sampled[0, 0, 0] > averaged[1, 0, 0], "a triangle of 8 pixels, cut off by the border"


def test_what_torch_resized_is_normalized_unrounded() -> None:
    image, size = noise((50, 70)), ExactSize(height=33, width=48)
    plan = replace(PLAN, size=size, resizing="torch", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    resized = torch.nn.functional.interpolate(planes, size=(33, 48), mode="bilinear", align_corners=False)[0]
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    assert (values_of(image, plan) - (resized - mean) / std).abs().max() < 2e-6


def test_a_mean_of_the_user_is_that_of_red_green_and_blue() -> None:
    given = Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert with_normalization(PLAN, given).mean == (0.1, 0.2, 0.3)
    blue_first = with_normalization(replace(PLAN, is_bgr=True), given)
    assert (blue_first.mean, blue_first.std) == ((0.3, 0.2, 0.1), (0.6, 0.5, 0.4))


@pytest.mark.parametrize("is_black", [True, False])
def test_padding_is_black_or_zero(is_black: bool) -> None:
    plan = replace(PLAN, mean=IMAGENET_MEAN, std=IMAGENET_STD, pad_size=(96, 96), pads_black=is_black)
    image = np.zeros((64, 80, 3), np.uint8)
    values = values_of(image, plan)
    black = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(values[:, 0, 0], black)
    for y, x in ((0, 80), (64, 0), (95, 95)):
        assert torch.allclose(values[:, y, x], black if is_black else torch.zeros(3))


def test_blue_comes_first_and_is_drawn_as_blue() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 2] = 255
    plan = replace(PLAN, is_bgr=True)
    values = values_of(image, plan)
    assert values[:, 5, 5].tolist() == [1, 0, 0]
    assert np.array_equal(seen_by_model(values, plan), image)


def test_what_is_not_in_use_is_no_fact_of_a_plan() -> None:
    plain = PLAN.facts()
    assert set(plain) == {
        *("size", "divisor", "round_content", "resample", "rescale_factor", "mean", "std", "pad_size", "lone_edge"),
    }
    assert replace(PLAN, note="of its paper").facts() == plain
    changes = {"rounding": "mmcv", "resizing": "opencv", "stretch_to": 32, "pads_black": True, "is_bgr": True}
    for name, value in changes.items():
        assert replace(PLAN, **{name: value}).facts() == {**plain, name: value}  # type: ignore[arg-type]  # values of many fields


def test_a_plan_says_what_it_does() -> None:
    plan = replace(PLAN, rounding="mmcv", resizing="opencv", stretch_to=32, is_bgr=True, note="as published")
    assert plan.describe() == (
        "shortest / longest edge 64 / 256, rounded as mmcv does, then stretched to multiples of 32, "
        "resized as OpenCV does, blue first (as published)"
    )
    black = with_size(replace(PLAN, pads_black=True, divisor=16), AspectSize(shortest_edge=64, longest_edge=64))
    assert black.describe() == "shortest / longest edge 64 / 64, black up to multiples of 16"
