"""Model directories as they lie on disks: a folder too high, half copied, or something else than weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT
from PIL import Image
from safetensors.numpy import load_file, save_file

from m2f_batch.cli import main

OLD = PROJECT / "tests" / "old_checkpoints"


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """What ``segment`` says of a model that it refuses, with the folder of the test as TMP; nothing is written."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")

    def refused(model: Path) -> str:
        command = ["segment", str(tmp_path / "in"), str(tmp_path / "run"), "--model", str(model), "--task", "semantic"]
        assert main(command) == 2 and not (tmp_path / "run").exists()
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("m2f-batch segment: model.uri: ")
        return said.removeprefix("m2f-batch segment: model.uri: ").rstrip("\n").replace(str(tmp_path), "TMP")

    return refused


def model_in(folder: Path, base: str = "4.57.6-swin") -> Path:
    return Path(shutil.copytree(OLD / base, folder))


def test_a_folder_too_high_or_too_low(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    for step in (500, 1000):
        model_in(tmp_path / "trained" / f"checkpoint-{step}")
    assert refusal(tmp_path / "trained") == (
        "TMP/trained has no config.json; give a Hugging Face model directory; there is one in "
        "TMP/trained/checkpoint-1000, TMP/trained/checkpoint-500"
    )
    model_in(tmp_path / "models--me--mine" / "snapshots" / "0a1b")
    assert refusal(tmp_path / "models--me--mine").endswith("there is one in TMP/models--me--mine/snapshots/0a1b")
    (tmp_path / "nothing").mkdir()
    assert refusal(tmp_path / "nothing") == "TMP/nothing has no config.json; give a Hugging Face model directory"
    weights = tmp_path / "trained" / "checkpoint-500" / "model.safetensors"
    assert refusal(weights) == (
        "'TMP/trained/checkpoint-500/model.safetensors' is a file; give its directory, TMP/trained/checkpoint-500"
    )


def test_weights_that_are_not_there(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    sharded = model_in(tmp_path / "sharded", "4.57.6-resnet-sharded")
    (sharded / "model-00002-of-00005.safetensors").unlink()
    assert refusal(sharded) == (
        "TMP/sharded has no model-00002-of-00005.safetensors, which model.safetensors.index.json names; copy it there "
        "from where it came"
    )
    model = model_in(tmp_path / "m")
    (model / "expected.safetensors").unlink()
    weights = model / "model.safetensors"
    weights.rename(model / "model.fp16.safetensors")
    assert refusal(model) == (
        "TMP/m has no model.safetensors, but model.fp16.safetensors; give the one that is meant that name"
    )
    (model / "model.fp16.safetensors").rename(model / "adapter_model.safetensors")
    assert refusal(model) == (
        "TMP/m has no model.safetensors, but an adapter; merge it into its model (peft: merge_and_unload), and save "
        "that"
    )
    (model / "training_args.bin").write_bytes(b"beside every training")
    (model / "adapter_model.safetensors").unlink()
    assert "pickled weights are never read" not in refusal(model)
    (model / "pytorch_model.bin").write_bytes(b"")
    assert refusal(model) == (
        "TMP/m has no model.safetensors (pytorch_model.bin: pickled weights are never read); convert it: m2f-batch "
        "convert-checkpoint TMP/m DEST; of a hub id, a pull request may hold safetensors: id@refs/pr/3"
    )
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 313428\n")
    assert refusal(model) == (
        "model.safetensors of TMP/m is not whole: it is a pointer of Git LFS; fetch the file: git lfs pull"
    )


def test_a_model_that_something_wraps(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    model = model_in(tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, model / "model.safetensors")
    assert refusal(model) == (
        "TMP/m has no class_predictor.weight, so is not a Mask2FormerForUniversalSegmentation; it has "
        "module.class_predictor.weight: save the model itself, not what wraps it (model.module.save_pretrained, ...)"
    )


def test_pickled_weights_under_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_in(tmp_path / "m")
    (model / "model.safetensors").rename(model / "last.pth")
    assert main(["convert-checkpoint", str(model), str(tmp_path / "new")]) == 2 and not (tmp_path / "new").exists()
    assert capsys.readouterr().err == (
        f"m2f-batch convert-checkpoint: SRC: {model} has neither pytorch_model.bin nor pytorch_model.bin.index.json; "
        "if last.pth holds the state of the model, give it the name pytorch_model.bin\n"
    )


def test_sizes_of_a_processor_that_are_not_read(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    model = model_in(tmp_path / "m")
    file = model / "preprocessor_config.json"
    for size in ({"longest_edge": 640}, {"max_height": 384, "max_width": 640}, [384, 384]):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"size": size}))
        told = f'"{size}"' if isinstance(size, dict) else f"'{size}'"
        assert refusal(model) == (
            f"the image processor's size {told} is not allowed (a number of pixels, {{shortest_edge, longest_edge}}, "
            "{shortest_edge} or {height, width}); mend its preprocessor_config.json"
        )
