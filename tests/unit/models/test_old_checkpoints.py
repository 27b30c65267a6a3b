"""Model directories as transformers 4.26.1 and 4.57.6 write them: each loads, and gives the logits of its own version.

``tests/old_checkpoints/write_old.py`` wrote them, with what each version computes.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from support.views import values_of

from m2f_batch.config.finetune import StartConfig
from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import RunError
from m2f_batch.models.checkpoint import read_checkpoint, weight_files
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.loading import forward, load_model, processor_pixel_values
from m2f_batch.models.mask2former.fast import FastMask2Former
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.models.mask2former.transformers_model import is_never_read
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.train.start.build import build_model
from m2f_batch.vision.pixels.preprocess import prepare
from m2f_batch.vision.segmenter import Segmenter

FOLDER = PROJECT / "tests" / "old_checkpoints"
DIRECTORIES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name[0] == "4")
VARIANTS = {
    each["name"]: each for file in sorted(FOLDER.glob("*-variants.json")) for each in json.loads(file.read_text())
}
CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
NAMES = {0: "cat", 1: "dog", 2: "sky"}


def image(height: int, width: int) -> NDArray[np.uint8]:
    """The image of write_old.py, uint8 [H, W, 3]."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * 7 + y * 13 + c * 61 + (x // 9) * (y // 7) * 29) % 256).astype(np.uint8)


def given() -> torch.Tensor:
    """The pixel values of write_old.py, float64 [1, 3, 64, 96]."""
    return (torch.from_numpy(image(64, 96)).permute(2, 0, 1)[None].double() - 118) / 57


def difference(directory: Path, expected: Path, *, fast: bool = True) -> float:
    """The largest difference of any logit from the version's own; in its precision, and over its tolerance."""
    known = load_file(expected / "expected.safetensors")
    dtype = known["masks"].dtype
    assert min(float(value.std()) for value in known.values()) > 0.3, "logits that differ"
    model = load_model(directory, CPU, fast=fast).to(dtype)
    assert isinstance(model, FastMask2Former) == fast
    found = dict(zip(("class", "masks"), forward(model, given().to(dtype)).tensors, strict=True))
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in known.items()}
    return max(float((found[name] - known[name]).abs().max()) for name in known) / TOLERANCE[dtype]


def laid_out(name: str, place: Path) -> Path:
    """A variant as a directory of its own: the weights of its base, and its JSON files."""
    variant = VARIANTS[name]
    shutil.copytree(FOLDER / variant["base"], place)
    for file, tree in variant["files"].items():
        (place / file).write_text(json.dumps(tree))
    return place


def test_what_is_there() -> None:
    assert [
        *("4.26.1-swin", "4.26.1-swin-odd", "4.26.1-swin-sharded", "4.57.6-resnet", "4.57.6-resnet-sharded"),
        *("4.57.6-swin", "4.57.6-swin-fp16", "4.57.6-timm", "4.57.6-trainer"),
    ] == DIRECTORIES
    sizes = {name: sum(file.stat().st_size for file in (FOLDER / name).iterdir()) for name in DIRECTORIES}
    assert max(sizes.values()) <= 400_000 and sum(file.stat().st_size for file in FOLDER.rglob("*")) <= 4_000_000
    for version in ("4.26.1", "4.57.6"):
        tensors = load_file(FOLDER / f"{version}-swin" / "model.safetensors")
        assert not [name for name in tensors if "swin.layernorm" in name]
    older = load_file(FOLDER / "4.26.1-swin" / "model.safetensors")
    assert [name for name in older if name.endswith("relative_position_index")], "a buffer that later ones lack"


@pytest.mark.parametrize("name", DIRECTORIES)
def test_each_gives_the_logits_of_its_own_version(name: str) -> None:
    if name.endswith("timm"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    place = FOLDER / name
    assert read_checkpoint(place, name).id2label == NAMES
    assert difference(place, place) <= 1
    assert difference(place, place, fast=False) <= 1


@pytest.mark.parametrize("name", [name for name, each in VARIANTS.items() if "config.json" in each["files"]])
def test_every_form_of_config_gives_them_too(name: str, tmp_path: Path) -> None:
    place = laid_out(name, tmp_path / "m")
    assert read_checkpoint(place, name).id2label == NAMES
    assert difference(place, FOLDER / VARIANTS[name]["base"]) <= 1


@pytest.mark.parametrize("name", [n for n, each in VARIANTS.items() if "preprocessor_config.json" in each["files"]])
def test_every_form_of_processor_gives_the_canvas_of_its_own_version(name: str, tmp_path: Path) -> None:
    place = laid_out(name, tmp_path / "m")
    plan = plan_from_processor(read_checkpoint(place, name).processor)
    # resized by Pillow and by torch, pixels are one level apart here and there
    step = 1.0 if plan.mean is None else 1 / 255 / 0.2
    for seen in VARIANTS[name]["images"]:
        pixels = image(*seen["image"])
        values = values_of([prepare(pixels, plan)], plan)
        assert list(values.shape[2:]) == seen["canvas"], seen["image"]
        for measure, known in ((values.mean, seen["mean"]), (values.std, seen["std"])):
            assert torch.allclose(measure((2, 3))[0].double(), torch.tensor(known).double(), rtol=0, atol=step)
        theirs = processor_pixel_values(place, pixels)
        assert theirs is None or torch.equal(theirs, values), "what a run would be refused for"


@pytest.mark.parametrize("name", ["4.26.1-swin", "4.57.6-trainer"])
def test_an_old_checkpoint_labels_images(name: str) -> None:
    segmenter = Segmenter.from_pretrained(str(FOLDER / name), task="instance", score_threshold=0.0, top_k=5)
    (segments,) = segmenter([image(48, 80)])
    assert len(segments) == 5 and {segment.category for segment in segments} <= set(NAMES.values())


@pytest.mark.parametrize("name", ["4.26.1-swin", "4.57.6-timm"])
def test_training_starts_from_an_old_checkpoint(name: str) -> None:
    if name.endswith("timm"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    task: Task = "instance"
    categories = [Category(i, label, True) for i, label in NAMES.items()]
    start = build_model(StartConfig(uri="x"), categories, task, TRAINING, seed=0, checkpoint=FOLDER / name)
    assert start.notes == ("the class head is the checkpoint's: it knows all 3 categories by name, of its 3",)
    known = load_file(FOLDER / name / "expected.safetensors")
    classes, masks = (
        FAMILY.network().predict(start.model.eval().to(known["class"].dtype), given().to(known["class"].dtype)).tensors
    )
    tolerance = TOLERANCE[known["class"].dtype]
    assert torch.allclose(classes, known["class"], rtol=0, atol=tolerance)
    assert torch.allclose(masks, known["masks"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["4.26.1-swin", "4.57.6-resnet"])
def test_what_may_be_missing_is_read_by_nothing_and_all_else_is_read(name: str) -> None:
    """Each tensor in turn becomes NaN: exactly those that may be missing change no logit."""
    checkpoint = read_checkpoint(FOLDER / name, name)
    model = FAMILY.network().load(FOLDER / name, checkpoint.config, "instance").eval().requires_grad_(False)
    values = given().float()
    state: dict[str, Any] = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    known = FAMILY.network().predict(model, values).tensors
    unread = set()
    for key, value in state.items():
        kept = value.clone()
        value.fill_(math.nan)
        found = FAMILY.network().predict(model, values).tensors
        if all(torch.equal(a, b) for a, b in zip(found, known, strict=True)):
            unread.add(key)
        value.copy_(kept)
    assert unread == {key for key in state if is_never_read(model, key)}
    norm = {f"model.pixel_level_module.encoder.swin.layernorm.{part}" for part in ("weight", "bias")}
    assert unread == {"criterion.empty_weight", *(norm if "swin" in name else ())}


@pytest.mark.parametrize(
    "lost",
    [
        "model.pixel_level_module.encoder.hidden_states_norms.stage4.weight",
        "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.layernorm_after.bias",
        "model.transformer_module.decoder.layernorm.weight",
        "class_predictor.bias",
    ],
)
def test_whatever_is_read_must_be_there(lost: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "4.26.1-swin", tmp_path / "m")
    (file,) = weight_files(tmp_path / "m")
    tensors = load_file(file)
    del tensors[lost]
    save_file(tensors, file)
    now = lost.replace(".encoder.encoder.layers", ".encoder.swin.encoder.layers")
    with pytest.raises(RunError, match=f"1 tensors are missing or of another shape than config.json says, e.g. {now}$"):
        load_model(tmp_path / "m", CPU)


def test_projections_that_version_4_never_saved_are_missing(tmp_path: Path) -> None:
    """It kept them in a plain list: their weights were random whenever a model was loaded."""
    shutil.copytree(FOLDER / "4.57.6-swin", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"enforce_input_projection": True}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"6 tensors are missing .*transformer_module.input_projections.0.bias"):
        load_model(tmp_path / "m", CPU)
