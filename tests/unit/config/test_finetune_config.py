"""The config of the finetune job: open keys of the model's config, and mistakes between fields."""

from pathlib import Path
from typing import Any

import pytest

from m2f_batch.config.finetune import FinetuneConfig, check_device
from m2f_batch.config.loading import check_config, fields_of, load_config
from m2f_batch.errors import UsageError

NEEDED = {"data.train": "train.json", "output.uri": "out"}


def load(*overrides: str, file: str | None = None) -> FinetuneConfig:
    """A config with what is needed, from ``--set`` texts."""
    return load_config(FinetuneConfig, file=file, overrides=overrides, flags=NEEDED)


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(*overrides)
    return str(caught.value).splitlines()


def test_every_key_says_what_it_takes() -> None:
    assert [key for key, field in fields_of(FinetuneConfig) if not field.description] == []


def test_the_defaults_are_the_paper_s() -> None:
    config = load("train.steps=10")
    assert (config.train.learning_rate, config.train.weight_decay, config.train.clip_norm) == (1e-4, 0.05, 0.01)
    assert (config.train.milestones, config.train.batch_size) == ((0.889, 0.963), 16)
    assert (config.augment.scale, config.augment.crop_size) == ((0.1, 2.0), 1024)


def test_set_reaches_into_the_open_mapping_and_lies_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: {config: {num_queries: 5, dropout: 0.1, backbone_config: {model_type: resnet, depths: [1, 1]}}}\n"
    )
    config = load(
        "train.steps=10",
        "model.config.num_queries=20",
        "model.config.activation_function=gelu",
        "model.config.backbone_config.depths=[2, 2]",
        file=str(file),
    )
    assert config.model.config == {
        "num_queries": 20,
        "dropout": 0.1,
        "activation_function": "gelu",
        "backbone_config": {"model_type": "resnet", "depths": [2, 2]},
    }


def test_an_open_mapping_may_be_given_whole_or_left_empty(tmp_path: Path) -> None:
    assert load("train.steps=1", "model.config={dropout: 1e-1}").model.config == {"dropout": 0.1}
    file = tmp_path / "c.yaml"
    file.write_text("model:\n  config:\n    # nothing\n")
    assert load("train.steps=1", file=str(file)).model.config == {}
    assert load("train.steps=1", "model.config.class_weight=2", file=str(file)).model.config == {"class_weight": 2}


@pytest.mark.parametrize("value", ["5", "[1]", "text", "{1: 2}"])
def test_an_open_mapping_takes_no_other_thing(value: str) -> None:
    (line,) = mistakes("train.steps=1", f"model.config={value}")
    assert line.startswith("model.config: ") and "allowed: a mapping" in line


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], "train.steps, train.epochs: exactly one"),
        (["train.steps=1", "train.epochs=1"], "train.steps, train.epochs: exactly one"),
        (["train.steps=1", "data.val=v.json", "data.split=0.8"], "data.val and data.split are both given"),
        (["train.steps=1", "data.val_images=v"], "data.val is not given"),
        (["train.steps=1", "model.uri=a/b", "model.backbone=c/d"], "model.uri and model.backbone are both given"),
        (["train.steps=1", "train.batch_size=3", "train.workers=[1, 4]"], "3 images cannot be shared by"),
        (["train.steps=1", "train.batch_size=3", "train.accumulate=4"], "give at least 4"),
        (["train.steps=1", "train.milestones=[0.9, 0.5]"], "train.milestones: [0.9, 0.5] must ascend"),
        (["train.steps=1", "augment.scale=[2, 1]"], "augment.scale: [2.0, 1.0] must have its minimum first"),
        (["train.steps=1", "augment.crop_size=100"], "augment.crop_size: 100 is not allowed"),
        (["train.steps=1", "train.precision=fp16"], "train.precision: 'fp16' is not allowed"),
        (["train.steps=1", "model.confg.num_queries=1"], "did you mean model.config?"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_each(overrides: list[str], told: str) -> None:
    (line,) = mistakes(*overrides)
    assert told in line


@pytest.mark.parametrize(
    ("override", "applies", "told"),
    [
        ("data.stratify=true", "data.split=0.8", "data.stratify: True does not apply without data.split"),
        ("data.split_seed=4", "data.split=0.8", "data.split_seed: 4 does not apply without data.split"),
        ("data.group_by=folder", "data.val=v", "data.group_by: 'folder' does not apply without data.split or data.val"),
        ("model.revision=v1", "model.uri=a/b", "model.revision: 'v1' does not apply without model.uri"),
        ("model.backbone_weights=false", "model.backbone=a/b", "False does not apply without model.backbone"),
        ("train.milestones=[0.5]", "train.schedule=step", "(0.5,) does not apply to train.schedule 'cosine'"),
        ("train.evaluate_every=3", "data.val=v", "train.evaluate_every: 3 does not apply without data.val or"),
        ("train.early_stopping=3", "data.split=0.8", "train.early_stopping: 3 does not apply without data.val or"),
        ("compute.gpus_per_worker=2", "compute.device=auto", "2.0 does not apply to compute.device 'cpu'"),
    ],
)  # fmt: skip
def test_a_key_that_does_nothing_is_a_mistake(override: str, applies: str, told: str) -> None:
    others = ["train.steps=1", "train.schedule=cosine", "compute.device=cpu"]
    (line,) = mistakes(*others, override)
    assert told in line
    load(*others, override, applies)


def test_every_key_that_does_nothing_is_told_and_defaults_take_back_what_a_file_says(tmp_path: Path) -> None:
    assert len(mistakes("train.steps=1", "data.stratify=true", "train.early_stopping=3", "model.revision=v1")) == 3
    file = tmp_path / "c.yaml"
    file.write_text("data: {split: 0.8, stratify: true}\ntrain: {steps: 1, early_stopping: 5}\n")
    taken_back = ["data.split=null", "data.stratify=false", "train.early_stopping=null", "train.steps=2"]
    assert load(*taken_back, file=str(file)).train.steps == 2


def test_ignore_value_of_the_model_is_the_ignore_index_of_png_masks() -> None:
    for given, want in [
        (["data.format=semantic-png", "model.config.ignore_value=0"], 0),
        (["data.format=instance-png", "data.ignore_index=7", "model.config.ignore_value=7"], 7),
        (["data.format=coco", "model.config.ignore_value=255"], None),
        (["data.format=semantic-png"], None),
    ]:
        assert load("train.steps=1", *given).ignore_index == want
    (line,) = mistakes("train.steps=1", "data.ignore_index=7", "model.config.ignore_value=0")
    assert line == "data.ignore_index is 7, but model.config.ignore_value is 0: keep one of them"


def test_mistakes_of_several_sections_are_told_together() -> None:
    lines = mistakes("data.val_images=v", "model.uri=a/b", "model.backbone=c/d", "compute.device=tpu")
    assert len(lines) == 4


def test_transformers_words_are_taken() -> None:
    tree: dict[str, Any] = {
        "data": {"train": "t"},
        "train": {"steps": 1, "precision": "bfloat16"},
        "output": {"uri": "o"},
    }
    assert check_config(FinetuneConfig, tree).train.precision == "bf16"


def test_deterministic_training_is_for_cpus() -> None:
    check_device(load("train.steps=1", "train.deterministic=true"), "cpu")
    check_device(load("train.steps=1"), "cuda")
    with pytest.raises(UsageError, match=r"train\.deterministic: true is not to be had on CUDA.*compute\.device=cpu"):
        check_device(load("train.steps=1", "train.deterministic=true"), "cuda")
