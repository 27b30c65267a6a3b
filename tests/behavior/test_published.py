"""The published checkpoints' own config and processor files, and full-size models that transformers 4.57 saves.

``tests/published/write_published.py`` rebuilt the files from public facts.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LONG, PROJECT
from safetensors.numpy import save_file
from safetensors.torch import load_file
from support.hand_made import weights
from transformers import Mask2FormerConfig

from m2f_batch.config.segment import ExactSize
from m2f_batch.models.checkpoint import choose_task, read_checkpoint
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.loading import forward, load_model
from m2f_batch.models.mask2former.fast import FastMask2Former
from m2f_batch.models.processor import plan_from_processor

FOLDER = PROJECT / "tests" / "published"
NAMES = sorted(path.name.removeprefix("mask2former-") for path in FOLDER.glob("mask2former-*"))
LABEL_SETS = {"coco-panoptic": "COCO panoptic", "coco-instance": "COCO instance", "cityscapes": "Cityscapes"}
LABEL_SETS |= {"ade": "ADE20K", "mapillary": "Mapillary Vistas"}
WIDTHS = {"tiny": 96, "small": 96, "base": 128, "large": 192}
DEPTHS = {"tiny": [2, 2, 6, 2], "50": [3, 4, 6, 3], "101": [3, 4, 23, 3]}
# all sizes, tasks and label sets
FULL_SIZE = [
    *(
        "swin-tiny-coco-instance",
        "swin-tiny-cityscapes-semantic",
        "swin-small-coco-panoptic",
        "swin-small-ade-semantic",
    ),
    *("swin-base-IN21k-cityscapes-panoptic", "swin-base-IN21k-coco-instance", "swin-large-coco-panoptic"),
    *("swin-large-ade-semantic", "swin-large-mapillary-vistas-panoptic", "resnet-50-coco-instance"),
    "resnet-101-coco-panoptic",
]
PACKAGES = ("transformers==4.57.6", "torch==2.13.0", "numpy<2.4", "scipy", "safetensors", "Pillow")


@pytest.mark.parametrize("name", NAMES)
def test_config_and_processor_are_read(name: str, tmp_path: Path) -> None:
    place = tmp_path / "m"
    shutil.copytree(FOLDER / f"mask2former-{name}", place)
    config = json.loads((place / "config.json").read_text())
    save_file(weights(len(config["id2label"])), place / "model.safetensors")
    checkpoint = read_checkpoint(place, f"facebook/mask2former-{name}")
    assert choose_task(checkpoint, None) == name.rpartition("-")[2] and checkpoint.license == "cc-by-nc-4.0"
    assert checkpoint.label_set is not None
    expected = next(known for part, known in LABEL_SETS.items() if part in name)
    assert checkpoint.label_set.name in (expected, f"{expected} instance")
    plan = plan_from_processor(checkpoint.processor)
    assert plan.size == ExactSize(height=384, width=384) and plan.divisor == 32 and plan.rescale_factor == 1 / 255
    made = architecture_of(Mask2FormerConfig, checkpoint.config, "Mask2Former")
    size = name.split("-")[1]
    assert made.backbone_config.depths == DEPTHS.get(size, [2, 2, 18, 2])
    assert getattr(made.backbone_config, "embed_dim", None) == WIDTHS.get(size)
    assert made.num_queries == (200 if size == "large" and not name.endswith("semantic") else 100)
    assert made.id2label == checkpoint.id2label and "_commit_hash" not in made.to_dict()


def test_what_is_there() -> None:
    assert len(NAMES) == 31 and set(FULL_SIZE) <= set(NAMES)
    assert (FOLDER / "mask2former-swin-large-coco-panoptic" / "config.json").stat().st_size > 40_000
    tasks = {name.rpartition("-")[2] for name in FULL_SIZE}
    assert tasks == {"instance", "semantic", "panoptic"} and {name.split("-")[1] for name in FULL_SIZE} >= set(WIDTHS)


@pytest.fixture(scope="module")
def python_of_4_57(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with transformers 4.57.6 in an environment of its own."""
    place = tmp_path_factory.mktemp("transformers-4.57")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python, tools = place / "bin" / "python", PROJECT / ".tools"
    if (tools / "uv").is_dir():
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, *PACKAGES], check=True, env=os.environ | {"PYTHONPATH": str(tools)})
    else:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


@LONG
@pytest.mark.parametrize("name", FULL_SIZE)
def test_logits_at_full_size_are_those_of_4_57(name: str, python_of_4_57: Path, tmp_path: Path) -> None:
    place = tmp_path / "m"
    script = FOLDER / "compute_with_4_57.py"
    subprocess.run([python_of_4_57, script, FOLDER / f"mask2former-{name}", place], check=True)
    known = load_file(place / "values.st")
    assert read_checkpoint(place, name).id2label
    model = load_model(place, torch.device("cpu"))
    shutil.rmtree(place)  # up to 900 MB, which is mapped or read by now
    assert isinstance(model, FastMask2Former)
    found = dict(zip(("class", "masks"), forward(model.double(), known["pixel_values"]).tensors, strict=True))
    worst = {key: float((found[key] - known[key]).abs().max()) for key in found}
    spread = {key: float(known[key].std()) for key in found}
    print(f"\n{name}: largest difference {max(worst.values()):.1e}, spread of the logits {spread}")
    assert max(worst.values()) <= 1e-5 and min(spread.values()) > 0.1
