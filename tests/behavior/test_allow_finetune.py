"""A finetune that keeps to an allow-list: it trains, validates and leaves its model, and reads nothing else."""

import json
from pathlib import Path

import pytest
from support.finetunes import arguments, config_file, validations

from m2f_batch.cli import main
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.storage.allow import OF_MACHINE


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=4, val=2)
    return folder


def allowed(*places: Path) -> list[str]:
    return ["--set", f"storage.allow={json.dumps([*map(str, places)])}"]


@pytest.mark.timeout(300)
def test_it_validates_and_ends(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The weights are validated from scratch space, which lies in no list."""
    monkeypatch.setenv(OF_MACHINE, f"{dataset} {tmp_path / 'runs'}")
    output = tmp_path / "runs" / "tuned"
    config = config_file(dataset, tmp_path, steps=2, evaluate_every=1)
    assert main(arguments(config, output, *allowed(dataset, output))) == 0
    assert [line["step"] for line in validations(output)] == [1, 2]
    assert (output / "model.safetensors").is_file()


@pytest.mark.parametrize("field", ["data.val", "data.val_images", "data.val_masks"])
def test_what_validates_must_be_listed_too(field: str, dataset: Path, tmp_path: Path, capsys):
    config = config_file(dataset, tmp_path)
    options = ["--set", f"{field}={tmp_path}", *allowed(dataset, tmp_path / "tuned")]
    assert main(arguments(config, tmp_path / "tuned", *options)) == 2
    assert f"{field}: {tmp_path}: lies outside storage.allow" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()
