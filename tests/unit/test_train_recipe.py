"""What the config and the checkpoint's processor become: the recipe of examples, and how the tuned model sees images."""

from typing import Any

import numpy as np
import pytest
from conftest import PROJECT

from m2f_batch.config_loading import load_config
from m2f_batch.finetune_config import FinetuneConfig
from m2f_batch.train.augment import draw_view
from m2f_batch.train.job import TrainJob, _processor
from m2f_batch.vision.geometry import size_with_aspect_ratio

ADE20K = PROJECT / "jobs" / "presets" / "ade20k-semantic.yaml"
GIVEN = {"data.train": "annotations", "data.val": "more", "output.uri": "tuned"}


def config_of(*overrides: str, file: str | None = None) -> FinetuneConfig:
    return load_config(FinetuneConfig, file=file, overrides=overrides, flags=GIVEN)


@pytest.mark.parametrize("image_hw", [(512, 683), (300, 500), (1000, 600)])
def test_scale_one_of_the_ade20k_preset_is_the_size_it_is_tested_at(image_hw: tuple[int, int]) -> None:
    config = config_of("augment.scale=[1, 1]", file=str(ADE20K))
    recipe = TrainJob(config, None, None, "semantic", None, None, {}).recipe((0,))  # type: ignore[arg-type]
    view = draw_view(
        np.random.default_rng(0), image_hw, recipe.crop_hw, recipe.scale, recipe.flip, resize=recipe.resize
    )
    processor = _processor(config, None, None)
    assert processor["size"] == {"shortest_edge": 512, "longest_edge": 2048}
    tested = size_with_aspect_ratio(image_hw, 512, 2048)
    assert max(abs(ours - theirs) for ours, theirs in zip(view.scaled_hw, tested, strict=True)) <= 1  # it rounds down


def test_a_new_model_sees_images_as_large_as_training_does() -> None:
    for resize, longest in (("fit", 512), ("shortest_edge", 2048)):
        config = config_of("train.steps=1", "augment.crop_size=512", f"augment.resize={resize}")
        assert _processor(config, None, None)["size"] == {"shortest_edge": 512, "longest_edge": longest}
