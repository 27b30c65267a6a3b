"""Pixel values against transformers' own image processor, bit for bit, and our own sizes against their definition."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.views import values_of, view_of
from torchvision.transforms.v2 import InterpolationMode, functional
from transformers import AutoImageProcessor
from transformers.image_transforms import get_size_with_aspect_ratio

from m2f_batch.config.segment import AspectSize, ExactSize
from m2f_batch.errors import ImageError, UsageError
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.preprocess_plan import size_with_aspect_ratio, with_size
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.pixels.preprocess import prepare, prepare_image

CPU = torch.device("cpu")
SHAPES = [(48, 64), (97, 61), (300, 200), (3, 90), (1, 1), (32, 32), (401, 33)]
SETTINGS = {
    "published": {"size": {"height": 384, "width": 384}, "size_divisor": 32},
    "default": {},
    "edges": {"size": {"shortest_edge": 64, "longest_edge": 100}},
    "legacy edges": {"size": 64, "max_size": 100},
    "no divisor": {"size": {"shortest_edge": 70, "longest_edge": 111}, "size_divisor": 0},
    "no resize": {"do_resize": False},
    "no rescale": {"size": {"height": 40, "width": 70}, "do_rescale": False},
    "no normalise": {"size": {"height": 40, "width": 70}, "do_normalize": False},
    "raw": {"size": {"height": 40, "width": 70}, "do_normalize": False, "do_rescale": False},
    "bicubic": {"size": {"height": 90, "width": 70}, "resample": 3},
    "nearest": {"size": {"height": 90, "width": 70}, "resample": 0},
    "lanczos": {"size": {"height": 90, "width": 70}, "resample": 1},
    "own mean": {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    "factor": {"size": {"height": 64, "width": 64}, "rescale_factor": 1 / 127.5},
    "padded": {"size": {"shortest_edge": 64, "longest_edge": 100}, "pad_size": {"height": 160, "width": 170}},
}


def image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "kind", ["Mask2FormerImageProcessor", "MaskFormerImageProcessor", "Mask2FormerImageProcessorFast"]
)
@pytest.mark.parametrize("name", SETTINGS)
def test_pixel_values_are_the_processors(tmp_path, name, kind):
    settings = {"image_processor_type": kind, **SETTINGS[name]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="torchvision")
    plan = plan_from_processor(settings)
    compared = 0
    for shape in SHAPES:
        pixels = image(shape)
        prepared = prepare_image(pixels, plan, 10**9)
        if isinstance(prepared, ImageError):
            with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)):
                processor(pixels, input_data_format="channels_last", return_tensors="pt")
            continue
        theirs = processor(pixels, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        ours = values_of([prepared], plan)
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs.float())
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2"])
@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_a_resize_is_torchvisions_on_old_processors_too(monkeypatch, resample, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    modes = [InterpolationMode.NEAREST_EXACT, InterpolationMode.LANCZOS]
    modes += [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]
    plan = plan_from_processor({"size": {"height": 61, "width": 83}, "resample": resample, "size_divisor": 0})
    for shape in ((97, 61), (300, 200), (401, 33)):
        pixels = image(shape)
        planes = torch.from_numpy(pixels).permute(2, 0, 1)
        theirs = functional.resize(planes, [61, 83], modes[resample], antialias=True)
        assert np.array_equal(prepare(pixels, plan).contents[0], theirs.permute(1, 2, 0).numpy())


@pytest.mark.slow
def test_who_prepares_imports_no_torchvision():
    code = "import sys, m2f_batch.vision.pixels.preprocess; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_is_its_images_alone():
    plan = plan_from_processor({"size": {"height": 64, "width": 96}})
    prepared = [prepare(image(shape, seed), plan) for seed, shape in enumerate([(50, 60), (90, 20)])]
    batch = values_of(prepared, plan)
    for one, alone in zip(batch, prepared, strict=True):
        assert torch.equal(one, values_of([alone], plan)[0])


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_explicit_edges_keep_the_aspect_ratio_and_pad_with_zeros_after_normalisation(shape):
    plan = with_size(plan_from_processor({}), AspectSize(shortest_edge=80, longest_edge=133))
    prepared = prepare(image(shape), plan)
    assert view_of(prepared).content_hw == get_size_with_aspect_ratio(shape, 80, 133)
    values = values_of([prepared], plan)[0]
    height, width = view_of(prepared).content_hw
    assert values.shape[1] % 32 == values.shape[2] % 32 == 0
    assert 0 <= values.shape[1] - height < 32
    assert 0 <= values.shape[2] - width < 32
    assert not values[:, height:].any()
    assert not values[:, :, width:].any()
    # the content is what the processor gives for exactly that size
    exact = with_size(plan_from_processor({}), ExactSize(height=height, width=width))
    assert torch.equal(values[:, :height, :width], values_of([prepare(image(shape), exact)], exact)[0])


def test_an_exact_size_is_exact():
    plan = with_size(plan_from_processor({}), ExactSize(height=50, width=70))
    prepared = prepare(image((100, 100)), plan)
    assert view_of(prepared) == View(Window(0, 0, 100, 100), (50, 70), (50, 70))


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (500, 500), (100, 1000), (1000, 3), (333, 500), (1, 5000)])
@pytest.mark.parametrize(("shortest", "longest"), [(800, 1333), (512, 2048), (384, None), (64, 65)])
def test_size_with_aspect_ratio_is_that_of_transformers(shape, shortest, longest):
    assert size_with_aspect_ratio(shape, shortest, longest) == get_size_with_aspect_ratio(shape, shortest, longest)


def test_too_thin_is_an_error_of_the_image():
    plan = with_size(plan_from_processor({}), AspectSize(shortest_edge=800, longest_edge=1333))
    with pytest.raises(ImageError, match="TooThin") as caught:
        prepare(image((1, 5000)), plan)
    assert (caught.value.stage, caught.value.size_hw) == ("preprocess", (1, 5000))


def test_an_image_of_height_three_is_not_taken_for_channels():
    plan = plan_from_processor({"size": {"height": 64, "width": 64}})
    assert prepare(image((3, 200)), plan).output_hw == (3, 200)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
        ({"image_processor_type": ["x"]}, "image_processor_type"),
        ({"size": {"max_height": 3}}, "size"),
        ({"size": {"height": "a", "width": 3}}, "size"),
        ({"size": {"height": 0, "width": 3}}, "size"),
        ({"size_divisor": "x"}, "size_divisor"),
        ({"resample": "bilinear"}, "resample"),
        ({"resample": 17}, "resample"),
        ({"pad_size": [1, 2]}, "pad_size"),
        ({"pad_size": {"height": 3}}, "pad_size"),
        ({"image_mean": "abc"}, "image_mean"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"rescale_factor": "q"}, "rescale_factor"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, named):
    with pytest.raises(UsageError, match=named):
        FAMILY.pixels.own({}, settings, "panoptic")


def test_forms_of_the_hub_that_transformers_refuses():
    plan = plan_from_processor({"size": {"shortest_edge": 64}, "size_divisor": 0})
    assert plan.content_size((100, 1000)) == (64, 640), "a lone shortest edge binds alone"
    assert plan.describe() == "shortest / longest edge 64"
    assert plan_from_processor({"size_divisor": None}) == plan_from_processor({}), "null is the default, 32"
    lone, number = {"size": {"shortest_edge": 64}, "_max_size": 80}, {"size": 64, "_max_size": 80}
    for settings, longest in ((lone, 80), (number, 1333)):  # of a number, transformers 4 took max_size, else 1333
        plan = plan_from_processor({**settings, "size_divisor": 0})
        assert plan.content_size((100, 5000)) == get_size_with_aspect_ratio((100, 5000), 64, longest)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.int64)])
def test_arrays_of_another_kind_are_the_callers_mistake(wrong):
    with pytest.raises(ValueError, match=r"allowed: .*uint8"):
        prepare_image(wrong, plan_from_processor({}), 10**6)
