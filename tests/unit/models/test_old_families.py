"""MaskFormer and OneFormer directories as transformers 4.57.6 writes them load, and give the logits of that version.

``tests/old_checkpoints/write_old_families.py`` wrote them.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from safetensors.torch import load_file, save_file

from m2f_batch.errors import RunError
from m2f_batch.models.loading import load_model

FOLDER = PROJECT / "tests" / "old_checkpoints"
CPU = torch.device("cpu")


def given() -> torch.Tensor:
    """The pixel values of write_old.py, float64 [1, 3, 64, 96]."""
    y, x, c = (torch.arange(n, dtype=torch.float64) for n in (64, 96, 3))
    y, x, c = y[:, None, None], x[None, :, None], c[None, None]
    image = (x * 7 + y * 13 + c * 61 + (x // 9) * (y // 7) * 29) % 256
    return (image.permute(2, 0, 1)[None] - 118) / 57


@torch.inference_mode()
def difference(directory: Path, expected: Path, *, fast: bool) -> float:
    """The largest difference from the version's own logits, in float64."""
    known = load_file(expected / "expected.safetensors")
    assert min(float(value.std()) for value in known.values()) > 0.3, "logits that differ"
    model = load_model(directory, CPU, task="panoptic", fast=fast).double()
    classes, masks = model(given()).tensors
    return max(float((classes - known["class"]).abs().max()), float((masks - known["masks"]).abs().max()))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", ["maskformer", "oneformer"])
def test_logits_are_those_of_the_version(family: str, fast: bool) -> None:
    directory = FOLDER / f"{family}-4.57.6"
    assert difference(directory, directory, fast=fast) < 1e-5


def test_the_swin_of_published_maskformers_is_the_same(tmp_path: Path) -> None:
    old = FOLDER / "maskformer-4.57.6"
    published = shutil.copytree(old, tmp_path / "model")
    config = json.loads((old / "config.json").read_text())
    assert config["use_auxiliary_loss"], "which is not computed"
    config["backbone_config"] |= {"model_type": "swin"}
    (published / "config.json").write_text(json.dumps(config))
    assert difference(published, old, fast=True) < 1e-5


@pytest.mark.parametrize("family", ["maskformer", "oneformer"])
def test_a_tensor_that_decides_something_is_missed(family: str, tmp_path: Path) -> None:
    broken = shutil.copytree(FOLDER / f"{family}-4.57.6", tmp_path / "model")
    tensors = load_file(broken / "model.safetensors")
    needed = next(name for name in tensors if "mask_projection.weight" in name)
    left = {name: value for name, value in tensors.items() if name != needed and not name.startswith("criterion.")}
    save_file(left, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"1 tensors are missing or of another shape.*{needed}"):
        load_model(broken, CPU, task="panoptic")
