"""Directories of backbones: what their config.json names, whose weights are taken, what they want of pixels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.train_models import BACKBONES, CATEGORIES, SMALL
from torch import Tensor
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TimmBackbone,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from m2f_batch.config.finetune import StartConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.start.backbones import find_backbone
from m2f_batch.train.start.build import Start, build_model

ARCHITECTURE = "mobilenetv3_small_050"


def build(directory: Path, **more: Any) -> Start:
    return build_model(
        StartConfig(config=SMALL, backbone=str(directory), **more), CATEGORIES, "panoptic", TRAINING, seed=0
    )


def encoder(start: Start) -> dict[str, Tensor]:
    return dict(start.model.model.pixel_level_module.encoder._backbone.state_dict())


def save_timm(directory: Path, **pretrained_cfg: Any) -> dict[str, Tensor]:
    """A classifier as timm puts it on the hub; returns its tensors."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    classifier = timm.create_model(ARCHITECTURE, num_classes=7)
    for name, value in classifier.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_()
    timm.models.save_for_hf(
        classifier, str(directory), safe_serialization=True, model_config={"pretrained_cfg": pretrained_cfg}
    )
    return dict(load_file(directory / "model.safetensors"))


def test_a_directory_of_timm_is_known_by_its_architecture(tmp_path: Path) -> None:
    given = save_timm(tmp_path)
    start = build(tmp_path)
    assert start.model.config.backbone_config.backbone == ARCHITECTURE
    assert start.pretrained_backbone and start.notes[0] == f"backbone {tmp_path}: pretrained"
    assert all(torch.equal(value, given[name]) for name, value in encoder(start).items())
    fresh = build(tmp_path, backbone_weights=False)
    assert not fresh.pretrained_backbone
    assert not torch.equal(encoder(fresh)["conv_stem.weight"], given["conv_stem.weight"])


@pytest.mark.parametrize("kind", ["backbone", "classifier"])
def test_wrappers_that_transformers_saved_keep_their_weights(kind: str, tmp_path: Path) -> None:
    """And are not replaced by what timm has on the hub, which is out of reach here."""
    pytest.importorskip("timm")
    torch.manual_seed(1)
    if kind == "backbone":
        config = TimmBackboneConfig(backbone=ARCHITECTURE, out_indices=[1, 2, 3, 4])
        model, body = TimmBackbone(config), "_backbone"
    else:
        model, body = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=ARCHITECTURE)), "timm_model"
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_()
    model.save_pretrained(tmp_path)
    given = getattr(model, body).state_dict()
    ours = encoder(build(tmp_path))
    assert ours and all(torch.equal(value, given[name]) for name, value in ours.items())


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    """timm would take random values in its place."""
    given = save_timm(tmp_path)
    name = "blocks.1.0.conv_pw.weight"
    save_file({key: value for key, value in given.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=f"1 tensors of {ARCHITECTURE} are not among the weights, e.g. {name}"):
        build(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"the weights of .* do not load"):
        build(tmp_path)


def test_what_weights_expect_of_pixels_is_read(tmp_path: Path) -> None:
    """MobileViT of timm was trained on plain pixels, unlike most."""
    save_timm(tmp_path, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert find_backbone(str(tmp_path), TRAINING, weights=True).normalization == ([0.0] * 3, [1.0] * 3)
    assert find_backbone(str(tmp_path), TRAINING, weights=False).normalization is None
    other = tmp_path / "other"
    ResNetForImageClassification(ResNetConfig(**BACKBONES["resnet"])).save_pretrained(other)
    assert find_backbone(str(other), TRAINING, weights=True).normalization is None
    processor: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (other / "preprocessor_config.json").write_text(json.dumps(processor))
    assert find_backbone(str(other), TRAINING, weights=True).normalization == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    (other / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert find_backbone(str(other), TRAINING, weights=True).normalization == ([0.0] * 3, [1.0] * 3)


def test_what_to_do_instead_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str, weights: bool = True) -> str:
        with pytest.raises(UsageError) as caught:
            find_backbone(name, TRAINING, weights=weights)
        (line,) = str(caught.value).splitlines()
        return line

    for kind, ours in (("mobilevit", "timm/mobilevit_s"), ("efficientnet", "timm/efficientnet_b0")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert told(str(tmp_path)).endswith(f", or {ours}")
    for tree in ({"architecture": 3}, {"model_type": 5}, {"model_type": "timm_backbone"}):
        (tmp_path / "config.json").write_text(json.dumps(tree))
        assert "no config.json that names a model_type, or an architecture of timm" in told(str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "model_type" not in told("nobody/has-this")
    without = told("nobody/has-this", weights=False)
    assert without.startswith("model.backbone: nobody/has-this")
    assert without.endswith('a folder with a config.json such as {"model_type": "swin"} will do, and timm/NAME')
