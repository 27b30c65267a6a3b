"""Every YAML file of jobs/ is a config that loads; recipes, once their dataset and OUTPUT are given."""

import re

import pytest
import yaml
from conftest import PROJECT

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.models.mask2former.new_config import new_config

PRESETS = sorted((PROJECT / "jobs" / "presets").glob("*.yaml"))
JOBS = sorted(file for file in (PROJECT / "jobs").glob("*.yaml") if file.name != "kustomization.yaml")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_it_loads(preset):
    given = {} if preset.stem == "demo" else {"data.train": "annotations", "output.uri": "tuned"}
    header = "".join(line for line in preset.read_text().splitlines() if line.startswith("#"))
    overrides = re.findall(r"--set (\S+)", header)
    config = load_config(FinetuneConfig, file=str(preset), overrides=overrides, flags=given)
    assert config.train.steps
    most = config.train.workers if isinstance(config.train.workers, int) else config.train.workers[1]
    assert config.train.batch_size % most == 0
    assert config.train.milestones == (0.889, 0.963)
    told = preset.read_text()
    assert f"--config jobs/presets/{preset.name}" in told


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_swin_tiny_drops_paths_as_the_paper_s_does(preset):
    """``DROP_PATH_RATE: 0.3`` in its configs for COCO and ADE20K alike; the classifier's own is 0.1."""
    model = yaml.safe_load(preset.read_text()).get("model", {})
    if "swin-tiny" in model.get("backbone", ""):
        base = {"backbone_config": {"model_type": "swin", "drop_path_rate": 0.1}}
        assert new_config(model["config"], base).backbone_config.drop_path_rate == 0.3


def test_there_is_one_for_each_usual_dataset():
    assert {file.stem for file in PRESETS} == {
        "ade20k-semantic",
        "coco-instance",
        "coco-panoptic",
        "demo",
        "small-custom-set",
        "short",
    }


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_a_job_is_whole_as_it_stands(file):
    kind = FinetuneConfig if file.stem.startswith("finetune") else SegmentConfig
    config = load_config(kind, file=str(file))
    if kind is FinetuneConfig:
        workers = config.train.workers
        most = workers if isinstance(workers, int) else workers[1]
        assert config.train.batch_size % (most * config.train.accumulate) == 0
        assert config.data.val or config.data.split  # a result to expect
    else:
        assert config.model.precision == ("fp32" if config.compute.device == "cpu" else "bf16")
    *header, _ = re.split(r"^(?!#)", file.read_text(), maxsplit=1, flags=re.MULTILINE)
    said = "".join(header)
    named = re.findall(r"--config (\S+)|kubectl apply -k (\S+)", said)
    assert named, "the header gives no command"
    for config_file, overlay in named:
        if config_file:
            assert config_file == f"jobs/{file.name}"
        else:
            assert (PROJECT / overlay / "kustomization.yaml").is_file()
    assert all(f"\n# {word}:" in said for word in ("Hardware", "Time", "Result"))


def test_there_is_a_job_for_each_place():
    assert {file.stem for file in JOBS} == {
        *("segment-cpu", "segment", "segment-spot", "nightly"),
        *("finetune", "finetune-eight"),
    }


def test_every_yaml_of_jobs_is_loaded_by_a_test():
    everything = set((PROJECT / "jobs").rglob("*.yaml"))
    backbones = set((PROJECT / "jobs" / "presets" / "backbones").glob("*.yaml"))  # tests/behavior loads them
    assert everything == {*PRESETS, *JOBS, *backbones, PROJECT / "jobs" / "kustomization.yaml"}


def test_the_nightly_job_goes_on_with_what_the_first_run_left():
    """Another INPUT or another label in the same OUTPUT is refused."""
    night, first = (
        yaml.safe_load((PROJECT / "jobs" / f"{name}.yaml").read_text()) for name in ("nightly", "segment-spot")
    )
    assert night["input"]["uri"] == first["input"]["uri"]
    assert (night["model"], night["output"]) == (first["model"], first["output"])
