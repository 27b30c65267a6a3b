"""Every preset is a config that loads, once its dataset and OUTPUT are given."""

import pytest
from conftest import PROJECT

from m2f_batch.config_loading import load_config
from m2f_batch.finetune_config import FinetuneConfig

PRESETS = sorted((PROJECT / "jobs" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_it_loads(preset):
    given = {} if preset.stem == "demo" else {"data.train": "annotations", "output.uri": "tuned"}
    config = load_config(FinetuneConfig, file=str(preset), overrides=[], flags=given)
    assert config.train.steps
    most = config.train.workers if isinstance(config.train.workers, int) else config.train.workers[1]
    assert config.train.batch_size % most == 0
    assert config.train.milestones == (0.889, 0.963)
    told = preset.read_text()
    assert f"--config jobs/presets/{preset.name}" in told


def test_there_is_one_for_each_usual_dataset():
    assert {file.stem for file in PRESETS} == {
        "ade20k-semantic",
        "coco-instance",
        "coco-panoptic",
        "demo",
        "small-custom-set",
    }
