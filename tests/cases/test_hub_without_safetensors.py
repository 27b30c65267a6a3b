"""A model of the hub that has pytorch_model.bin alone: both ways out, each taken, and what is asked of whom."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from support.conversion_files import pickled_model
from support.hub_stub import HubStub

from m2f_batch.cli import main
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.models.source import MAX_REQUESTS, find_model, local_directory

NAME = "facebook/mask2former-swin-large-coco-panoptic"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """A hub with one model in pickles, to which pull request 3 adds safetensors, and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    pickled = pickled_model(tmp_path / "pickled")
    (pickled / "README.md").write_text("---\nlicense: other\n---\n")
    with HubStub() as stub:
        stub.add(NAME, {"main": pickled, "refs/pr/1": pickled, "refs/pr/3": DEMO_MODEL})
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        files = stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "ENDPOINT", stub.url)
        disable_progress_bars()
        yield stub
        enable_progress_bars()


def of_segment(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str = NAME) -> str:
    """The refusal of ``segment``."""
    (tmp_path / "in").mkdir(exist_ok=True)
    assert main(["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--model", name]) == 2
    return capsys.readouterr().err.removeprefix("m2f-batch segment: ").removesuffix("\n")


def test_segment_names_both_ways_out(hub: HubStub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.commit(NAME, "main")
    assert of_segment(capsys, tmp_path) == (
        f"model.uri: {NAME}@{commit} has no safetensors, and pickled weights (pytorch_model.bin) are never read here; "
        f"ways out: a pull request that holds them, by whoever made it ({NAME}@refs/pr/3), or, of a model that "
        f"segments, m2f-batch convert-checkpoint {NAME} DEST"
    )
    assert not any(".bin" in path for path in hub.seen), "no pickle was fetched"
    of_the_model = (f"/api/models/{NAME}/", f"/{NAME}/resolve/{commit}/")
    asked = {path.split(" ")[1] for path in hub.seen} - {"/api/agent-harnesses"}  # the hub's client asks it by itself
    assert asked and all(path.startswith(of_the_model) for path in asked), asked


def test_a_pull_request_is_taken_and_recorded_as_a_commit(hub: HubStub) -> None:
    source = find_model(f"{NAME}@refs/pr/3")
    assert source.revision == hub.commit(NAME, "refs/pr/3")
    model = (local_directory(source) / "model.safetensors").read_bytes()
    assert model == (DEMO_MODEL / "model.safetensors").read_bytes()


def test_where_no_pull_request_helps(hub: HubStub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del hub.models[NAME]["refs/pr/3"]
    assert "ways out: a pull request that holds them (there is none yet), or" in of_segment(capsys, tmp_path)
    hub.down = (f"/api/models/{NAME}/refs",)
    unknown = f"ways out: a pull request that holds them ({NAME}@refs/pr/N; the hub cannot be asked which), or"
    assert unknown in of_segment(capsys, tmp_path)


def test_the_newest_of_many_pull_requests(hub: HubStub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled = hub.models[NAME]["main"]
    hub.models[NAME] |= {f"refs/pr/{number}": pickled for number in range(4, 40)} | {"refs/pr/38": DEMO_MODEL}
    assert f"({NAME}@refs/pr/38), or" in of_segment(capsys, tmp_path)
    assert sum("/tree/refs/pr/" in path for path in hub.seen) == MAX_REQUESTS


@pytest.mark.slow
def test_the_other_way_out(hub: HubStub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Converted, it keeps what its name says: the licence of the published weights, and its task."""
    assert main(["convert-checkpoint", NAME, str(tmp_path / "large")]) == 0
    assert capsys.readouterr().out.endswith("license of the weights: cc-by-nc-4.0\n")
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    assert config == json.loads((DEMO_MODEL / "config.json").read_text()) | {"_name_or_path": NAME}
    model = (tmp_path / "large" / "model.safetensors").read_bytes()
    assert model == (DEMO_MODEL / "model.safetensors").read_bytes()
    assert {path.split("/")[-1] for path in hub.seen if path.startswith("GET /facebook")} == {
        *("config.json", "preprocessor_config.json", "README.md", "pytorch_model.bin")
    }


def test_a_backbone_without_weights_needs_its_config_alone(hub: HubStub, tmp_path: Path) -> None:
    from m2f_batch.train.start.backbones import find_backbone

    folder = tmp_path / "swin"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "swin", "embed_dim": 24}))
    (folder / "pytorch_model.bin").write_bytes(b"")
    hub.add("me/swin", {"main": folder})
    assert find_backbone("me/swin", TRAINING, weights=False).config["embed_dim"] == 24
    with pytest.raises(Exception, match=r"^model.backbone: me/swin@\w+ has no safetensors, and pickled weights"):
        find_backbone("me/swin", TRAINING, weights=True)


@pytest.mark.slow
def test_by_the_variables_of_the_hub(hub: HubStub, tmp_path: Path) -> None:
    """The same in a process of its own, which knows the stub by HF_ENDPOINT."""
    (tmp_path / "in").mkdir()
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
    command = ["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--model", NAME, "--set", "model.revision=main"]
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *command], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"({NAME}@refs/pr/3), or, of a model that segments, m2f-batch" in done.stderr, (
        done.stderr
    )
    settings["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *command], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"({NAME}@refs/pr/N; the hub cannot be asked which), or" in done.stderr, done.stderr
