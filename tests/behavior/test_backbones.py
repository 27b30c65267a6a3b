"""The presets of jobs/presets/backbones, each from its command to the rows of ``segment``, with backbones of full size.

The hub is out of reach of tests, so a directory with random weights stands for what each preset names there: that of a
classifier, as the hub has them.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LONG, PROJECT
from support.engines import rows_of
from support.finetunes import DECODERS
from torch import Tensor
from transformers import (
    Mask2FormerForUniversalSegmentation,
    PvtV2Config,
    PvtV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.datasets.dataset import Category
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.loading import forward, load_model
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN
from m2f_batch.train.start.build import backbone_multiplier, build_model, keeps_batch_norms
from m2f_batch.vision.segmenter import Segmenter

PRESETS = PROJECT / "jobs" / "presets" / "backbones"
STEPS, RATE = 3, 1e-4  # the rate is the presets' own
# millions of parameters of the published backbone, without its classifier
MILLIONS = {
    "swin-tiny": 27.52,
    "resnet-50": 23.51,
    "pvt-v2-b0": 3.41,
    "mobilevit-small": 4.94,
    "efficientnet-b0": 3.60,
}
TRANSFORMERS: dict[str, tuple[Any, Any, str]] = {
    "swin-tiny": (SwinConfig, SwinForImageClassification, "swin"),
    "resnet-50": (ResNetConfig, ResNetForImageClassification, "resnet"),
    "pvt-v2-b0": (PvtV2Config, PvtV2ForImageClassification, "pvt_v2"),
}
TIMM = {"mobilevit-small": "mobilevit_s", "efficientnet-b0": "efficientnet_b0"}
BY_COMMAND = ("resnet-50", "efficientnet-b0")  # whose scenes are labelled by the command, one of each library
SMALL = DECODERS | {"num_queries": 8, "decoder_layers": 3}

pytestmark = pytest.mark.usefixtures("off_ray")


@pytest.fixture(scope="module")
def scenes_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=STEPS * 2, val=2)
    return folder


def save_classifier(preset: str, directory: Path) -> dict[str, Tensor]:
    """A classifier on this backbone as the hub has it; its tensors by the names that they have in a Mask2Former."""
    torch.manual_seed(len(preset))
    if preset in TIMM:
        timm = pytest.importorskip("timm")
        classifier = timm.create_model(TIMM[preset])
        _vary_norms(classifier)
        timm.models.save_for_hf(classifier, str(directory), safe_serialization=True)
        # the levels of MobileViT's pyramid are modules of their own
        flat = {"mobilevit-small": ("stages.", "stages_"), "efficientnet-b0": ("", "")}[preset]
        return {f"_backbone.{name.replace(*flat)}": value.clone() for name, value in classifier.state_dict().items()}
    config, model, body = TRANSFORMERS[preset]
    classifier = model(config())
    _vary_norms(classifier)
    classifier.save_pretrained(directory)
    prefix = "swin." if preset == "swin-tiny" else ""
    return {prefix + name: value.clone() for name, value in getattr(classifier, body).state_dict().items()}


def _vary_norms(model: torch.nn.Module) -> None:
    """Statistics that no new norm has."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def arguments(preset: str, dataset: Path, output: Path, **keys: Any) -> list[str]:
    keys = {
        "data.format": "coco-panoptic",
        "data.train_images": dataset / "train" / "images",
        "data.train_masks": dataset / "train" / "masks",
        **{f"model.config.{name}": value for name, value in SMALL.items()},
        "augment.crop_size": 96,
        "train.steps": STEPS,
        "train.batch_size": 2,
        "train.checkpoint_every": STEPS,  # hundreds of megabytes each
        "train.precision": "fp32",
        "compute.device": "cpu",
        **keys,
    }
    given = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    config = ["--config", str(PRESETS / f"{preset}.yaml"), *given, "--task", "instance"]
    return ["finetune", str(dataset / "train.json"), str(output), *config]


@pytest.mark.parametrize("preset", [pytest.param(name, marks=[LONG] * (name == "resnet-50")) for name in MILLIONS])
def test_it_learns_is_saved_reloaded_and_segments(preset: str, scenes_dataset: Path, tmp_path: Path) -> None:
    given = save_classifier(preset, tmp_path / "backbone")
    output = tmp_path / "tuned"
    assert main(arguments(preset, scenes_dataset, output, **{"model.backbone": tmp_path / "backbone"})) == 0

    processor = json.loads((output / "preprocessor_config.json").read_text())
    mean = [0.0] * 3 if preset == "mobilevit-small" else list(IMAGENET_MEAN)  # what its weights were trained with
    assert processor["image_mean"] == pytest.approx(mean)
    plain = Mask2FormerForUniversalSegmentation.from_pretrained(output).eval().requires_grad_(False)
    backbone = plain.model.pixel_level_module.encoder.state_dict()
    taken = {name: value for name, value in backbone.items() if name in given}
    new = sorted(backbone.keys() - taken.keys())
    assert all(name.startswith("hidden_states_norms.stage") for name in new), new
    count = sum(value.numel() for name, value in taken.items() if not is_statistic(name))
    assert count == pytest.approx(MILLIONS[preset] * 1e6, rel=2e-3)
    for name, value in taken.items():
        moved = (value - given[name]).abs().max().item()
        if stands_still(preset, name):
            assert moved == 0, name
        else:  # AdamW's steps are at most 3.2 times the rate, here that of a pretrained backbone
            assert 0 < moved < STEPS * 3.2 * 0.1 * RATE, (name, moved)

    values = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    expected = FAMILY.network().predict(plain.double(), values).tensors
    assert all(part.isfinite().all() for part in expected)
    found = forward(load_model(output, torch.device("cpu")).double(), values).tensors
    assert all(torch.allclose(a, b, rtol=0, atol=1e-8) for a, b in zip(found, expected, strict=True))

    label(preset, output, scenes_dataset / "val" / "images", tmp_path / "run")


def label(preset: str, model: Path, images: Path, run: Path) -> None:
    """Label images with a tuned model; what the command writes is what the class says of each file."""
    files = sorted(images.iterdir())
    segmenter = Segmenter.from_pretrained(str(model), threads=1, score_threshold=0.0)
    assert segmenter.labeling.task == "instance"
    rows = segmenter.rows([file.read_bytes() for file in files])
    assert [row["status"] for row in rows] == ["ok"] * len(files)
    things = {name for label, name in enumerate(CATEGORIES) if label not in STUFF_IDS}
    assert {segment["category"] for row in rows for segment in row["segments"]} <= things
    assert all(row["segments"] for row in rows)
    if preset not in BY_COMMAND:
        return
    keys = {"postprocess.score_threshold": 0, "compute.threads_per_actor": 1, "compute.actors": 1}
    given = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    assert main(["segment", str(images), str(run), "--model", str(model), *given]) == 0
    found = rows_of(run)
    assert [row["uri"] for row in found] == list(map(str, files))
    for row, wanted in zip(found, rows, strict=True):
        assert (row["status"], row["height"], row["width"]) == ("ok", wanted["height"], wanted["width"])
        assert len(row["segments"]) == len(wanted["segments"])
        for one, other in zip(row["segments"], wanted["segments"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-7)  # float32 in Parquet
            assert {**one, "score": 0} == {**other, "score": 0}


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def stands_still(preset: str, name: str) -> bool:
    """Batch norms, which stay as they were pretrained, and the norm of Swin whose output nothing reads."""
    if preset == "swin-tiny":
        return name.startswith("swin.layernorm.")
    return name.split(".")[-2].startswith(("bn", "normalization"))


@pytest.mark.parametrize("preset", MILLIONS)
def test_without_the_hub_it_starts_from_random_weights(preset: str, tmp_path: Path) -> None:
    """As the preset's own header says."""
    text = (PRESETS / f"{preset}.yaml").read_text()
    config_file = re.search(r"DIR/config.json is (\{.*\})", text)
    overrides = ["model.backbone_weights=false"]
    if config_file:
        (tmp_path / "config.json").write_text(config_file[1])
        overrides.append(f"model.backbone={tmp_path}")
    else:
        pytest.importorskip("timm")
    config = loaded(preset, overrides)
    start = build_model(config.model, [Category(1, "ball", True)], "instance", TRAINING, seed=0)
    assert not start.pretrained_backbone
    assert (backbone_multiplier(start, config.train), keeps_batch_norms(start, config.train)) == (1.0, False)
    parts = {"backbone": start.model.model.pixel_level_module.encoder, "all": start.model}
    millions = {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()}
    assert millions["backbone"] == pytest.approx(MILLIONS[preset], rel=2e-3)
    assert f"({millions['all']:.0f} M parameters" in text


@pytest.mark.parametrize("preset", MILLIONS)
def test_its_header_is_its_command_and_its_rates_follow_from_the_weights(preset: str) -> None:
    config, file = loaded(preset), PRESETS / f"{preset}.yaml"
    assert f"--config jobs/presets/backbones/{file.name}" in file.read_text()
    assert config.train.steps and config.train.learning_rate == RATE
    assert config.train.backbone_multiplier is config.train.freeze_batch_norms is None
    assert config.model.backbone and config.model.backbone_weights


def test_there_is_one_for_each() -> None:
    assert {file.stem for file in PRESETS.glob("*.yaml")} == {*MILLIONS}


def loaded(preset: str, overrides: Sequence[str] = ()) -> FinetuneConfig:
    flags = {"data.train": "annotations", "output.uri": "tuned"}
    return load_config(FinetuneConfig, file=str(PRESETS / f"{preset}.yaml"), overrides=overrides, flags=flags)
