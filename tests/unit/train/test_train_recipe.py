"""What the config and a checkpoint's processor become: the recipe of examples, and how the tuned model sees images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from PIL import Image
from transformers import AutoImageProcessor

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.preprocess_plan import size_with_aspect_ratio
from m2f_batch.train.data.augment import draw_view
from m2f_batch.train.data.samples import Recipe, make_sample
from m2f_batch.train.start.job import TrainJob, tuned_processor

ADE20K = PROJECT / "jobs" / "presets" / "ade20k-semantic.yaml"
GIVEN = {"data.train": "annotations", "data.val": "more", "output.uri": "tuned"}


def config_of(*overrides: str, file: str | None = None) -> FinetuneConfig:
    return load_config(FinetuneConfig, file=file, overrides=overrides, flags=GIVEN)


@pytest.mark.parametrize("image_hw", [(512, 683), (300, 500), (1000, 600)])
def test_scale_one_of_the_ade20k_preset_is_the_size_it_is_tested_at(image_hw: tuple[int, int]) -> None:
    config = config_of("augment.scale=[1, 1]", file=str(ADE20K))
    recipe = TrainJob(config, None, None, "semantic", None, None, {}, "mask2former").recipe((0,))  # type: ignore[arg-type]  # a recipe asks for config and task only
    view = draw_view(
        np.random.default_rng(0), image_hw, recipe.crop_hw, recipe.scale, recipe.flip, resize=recipe.resize
    )
    processor = tuned_processor(config, FAMILY, None, None)
    assert processor["size"] == {"shortest_edge": 512, "longest_edge": 2048}
    tested = size_with_aspect_ratio(image_hw, 512, 2048)
    assert max(abs(ours - theirs) for ours, theirs in zip(view.scaled_hw, tested, strict=True)) <= 1  # it rounds down


def test_a_new_model_sees_images_as_large_as_training_does() -> None:
    for resize, longest in (("fit", 512), ("shortest_edge", 2048)):
        config = config_of("train.steps=1", "augment.crop_size=512", f"augment.resize={resize}")
        assert tuned_processor(config, FAMILY, None, None)["size"] == {"shortest_edge": 512, "longest_edge": longest}


def test_an_example_is_resized_as_the_recipe_says(tmp_path: Path) -> None:
    Image.new("RGB", (120, 60)).save(tmp_path / "a.png")
    row = {"uri": str(tmp_path / "a.png"), "height": 60, "width": 120, "image_id": 1, "segments": [], "ignored": None}
    recipe = Recipe("semantic", (0,), (32, 32), (1.0, 1.0), flip=0.0, color=0.0, seed=0)
    assert make_sample(row, 0, recipe).content_hw == (16, 32)
    assert make_sample(row, 0, replace(recipe, resize="shortest_edge")).content_hw == (32, 32)


@pytest.mark.parametrize("has_given", [False, True])
@pytest.mark.parametrize("is_reduced", [False, True])
@pytest.mark.parametrize("size", ["null", "{height: 32, width: 32}"])
def test_label_maps_are_those_of_the_dataset(has_given: bool, is_reduced: bool, size: str, tmp_path: Path) -> None:
    """transformers' processor gives its PNGs the tuned model's labels, which an ADE20K checkpoint's own does not."""
    given = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 32, "width": 32}}
    given |= {"do_reduce_labels": not is_reduced, "reduce_labels": not is_reduced}
    config = config_of(
        "train.steps=1", "data.format=semantic-png", f"data.do_reduce_labels={is_reduced}", f"output.size={size}"
    )
    settings = tuned_processor(config, FAMILY, given if has_given else None, None)
    assert "reduce_labels" not in settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="torchvision")
    png = np.zeros((32, 32), np.uint8)
    png[8:], png[16:] = 1, 2
    pixels = np.zeros((32, 32, 3), np.uint8)
    labels = processor(pixels, segmentation_maps=png, return_tensors="pt")["class_labels"]
    assert torch.equal(labels[0], torch.tensor([0, 1] if is_reduced else [0, 1, 2]))
