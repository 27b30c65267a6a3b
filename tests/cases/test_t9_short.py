"""Case T9: few steps with the default scales, made for 50 epochs: the plan says what to take instead."""

import json

import pytest
from conftest import DEMO_MODEL, PROJECT
from PIL import Image

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.train.command import FEW_STEPS, plan_lines
from m2f_batch.train.start.job import plan_job


@pytest.fixture
def notes(tmp_path):
    """The notes of a plan, by further settings."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    square = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [4, 4, 20, 20], "area": 400}
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}],
        "annotations": [square | {"segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(tree))

    def noted(file: str | None = None, **settings: object) -> list[str]:
        places = {
            "data.train": str(tmp_path / "a.json"),
            "output.uri": str(tmp_path / "t"),
            "model.uri": str(DEMO_MODEL),
        }
        config = load_config(FinetuneConfig, file=file, flags=places | settings)
        return [line for line in plan_lines(plan_job(config)) if line.startswith("note ")]

    return noted


def test_the_plan_of_a_short_training(notes):
    assert notes(**{"train.steps": 300}) == [
        "note    300 steps are few for augment.scale [0.1, 2.0], the paper's for 50 epochs: [1, 1] did better on "
        "average (jobs/presets/short.yaml)"
    ]


def test_nothing_is_said_where_it_is_right_or_was_chosen(notes):
    assert notes(**{"train.steps": FEW_STEPS}) == []
    assert notes(**{"train.steps": 300, "augment.scale": [0.1, 2.0]}) == []


def test_the_preset_is_what_the_note_says():
    preset = str(PROJECT / "jobs" / "presets" / "short.yaml")
    config = load_config(FinetuneConfig, file=preset, flags={"data.train": "a", "output.uri": "b"})
    assert config.augment.scale == (1.0, 1.0) and config.train.steps < FEW_STEPS
