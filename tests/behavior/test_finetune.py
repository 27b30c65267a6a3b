"""finetune as a user types it: what it leaves, that a kill changes nothing, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray
import torch
from safetensors.numpy import load_file
from support.finetunes import STEPS, arguments, config_file, losses, marker, validations, wait_until

from m2f_batch.cli import main
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.demo.scenes import CATEGORIES, VAL_SEED, draw_scene
from m2f_batch.train.workers import ray_train


@pytest.fixture(scope="module")
def scenes_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=10, val=4)
    return folder


def ended(arguments: list[str], folder: Path) -> int:
    """The exit code of the command, which is also what its result says."""
    file = folder / "result.json"
    code = main([*arguments, "--result", str(file)])
    told = json.loads(file.read_text())
    assert (told["command"], told["exit_code"], told["retry"]) == ("finetune", code, code == 1)
    assert (told["error"] is None) == (code == 0) and (told["totals"] is None) == (code == 2)
    return code


@pytest.fixture(scope="module")
def undisturbed(scenes_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(arguments(config_file(scenes_dataset, folder), folder / "tuned"), folder) == 0
    return folder / "tuned"


def test_it_leaves_a_model_that_segments_and_says_how_it_came_about(undisturbed: Path):
    from m2f_batch.vision.segmenter import Segmenter

    names = {str(file.relative_to(undisturbed)).split("/")[0] for file in undisturbed.rglob("*") if file.is_file()}
    assert names >= {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}
    assert names >= {"metrics.jsonl", "curves.png", "checkpoints", "tensorboard", "finetune.json"}
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(CATEGORIES)}
    assert config["task"] == "panoptic"
    assert config["label_ids_to_fuse"] == [CATEGORIES.index("sky"), CATEGORIES.index("grass")]
    assert json.loads((undisturbed / "preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 64,
        "longest_edge": 64,
    }
    card = (undisturbed / "README.md").read_text()
    assert "10 images of" in card and "validated on 4 images" in card and "random weights" in card
    assert [step for step, _ in losses(undisturbed)] == [*range(1, STEPS + 1)]
    assert losses(undisturbed)[-1][1] < losses(undisturbed)[0][1]
    assert [line["step"] for line in validations(undisturbed)] == [5, 10]
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    segmenter = Segmenter.from_pretrained(str(undisturbed), score_threshold=0.0)
    assert segmenter.labeling.task == "panoptic"
    (row,) = segmenter.rows([draw_scene(VAL_SEED).image])
    assert row["status"] == "ok"


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(
    scenes_dataset: Path, undisturbed: Path, tmp_path: Path
):
    output, config = tmp_path / "tuned", config_file(scenes_dataset, tmp_path)
    command = [sys.executable, "-m", "m2f_batch.cli", *arguments(config, output)]
    for step in (2, 6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda step=step: marker(output, step).exists(), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (output / "model.safetensors").exists()
    assert main(arguments(config, output)) == 0
    assert losses(output) == losses(undisturbed)
    assert validations(output) == validations(undisturbed)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert json.loads((output / "finetune.json").read_text())["attempts"] == 3


def test_two_workers_on_ray_learn_what_one_learns(
    scenes_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """On a Ray of the command. The first loss is that of the same weights; then rounding goes its own way."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    frozen = {"model.config.dropout": "0"}
    more = [part for key, value in frozen.items() for part in ("--set", f"{key}={value}")]
    same = {"freeze_batch_norms": True, "steps": 5, "evaluate_every": 5, "checkpoint_every": 5}
    alone = config_file(scenes_dataset, tmp_path, "alone", **same)
    together = config_file(scenes_dataset, tmp_path, "together", **same, workers=2)
    assert main(arguments(alone, tmp_path / "one", *more)) == 0
    is_shared = ray.is_initialized()  # by other tests of this process, of which "make test-commands" has none
    assert main(arguments(together, tmp_path / "two", *more)) == 0
    assert ray.is_initialized() is is_shared
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two[0][1] == pytest.approx(one[0][1], rel=1e-5)
    assert [step for step, _ in two] == [step for step, _ in one]
    assert two[-1][1] == pytest.approx(one[-1][1], rel=0.2)
    assert "2 workers" in capsys.readouterr().out


def test_the_same_command_has_nothing_to_do(scenes_dataset: Path, undisturbed: Path, tmp_path: Path, capsys):
    before = (undisturbed / "model.safetensors").stat().st_mtime_ns
    assert main(arguments(config_file(scenes_dataset, tmp_path), undisturbed)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (undisturbed / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_output_are_refused(scenes_dataset: Path, undisturbed: Path, tmp_path: Path, capsys):
    config = config_file(scenes_dataset, tmp_path, learning_rate=2e-3)
    assert ended(arguments(config, undisturbed), tmp_path) == 2
    assert "holds a training with other settings (train)" in capsys.readouterr().err


def test_what_is_not_ours_is_not_written_over(scenes_dataset: Path, tmp_path: Path, capsys):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "thesis.txt").write_text("mine")
    assert main(arguments(config_file(scenes_dataset, tmp_path), tmp_path / "tuned")) == 2
    assert "thesis.txt is there, and is no training of ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.freeze=['nothing.*']", "train.freeze: 'nothing.*' fits no parameter"),
        ("model.config.num_queries=0", "model.config.num_queries: 0 is not allowed"),
        ("compute.device=cuda", "compute.device: 'cuda' is not to be had here"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_the_settings_leaves_nothing(
    workers: int,
    change: str,
    said: str,
    scenes_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """What several workers need of a cluster is seen before any of them starts; so Ray only says here what it has."""
    monkeypatch.setattr(ray_train, "connected", lambda _: nullcontext())
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    if change == "compute.device=cuda":
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        said = said if workers == 1 else "train.workers: 2 workers need 2 GPUs; the cluster has 0"
    config = config_file(scenes_dataset, tmp_path, workers=workers)
    assert main(arguments(config, tmp_path / "tuned", "--set", change)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def test_a_step_that_does_not_fit_on_the_device_ends_it_in_words(scenes_dataset: Path, tmp_path: Path, capsys):
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2f_batch.train.training.train_step", too_large)
        assert main(arguments(config_file(scenes_dataset, tmp_path), tmp_path / "tuned")) == 1
    said = capsys.readouterr().err
    assert "out of memory on the device; raise train.accumulate" in said and "Traceback" not in said


def test_a_broken_image_ends_it_with_its_name(scenes_dataset: Path, tmp_path: Path, capsys):
    import shutil

    copy = tmp_path / "dataset"
    shutil.copytree(scenes_dataset, copy)
    broken = sorted((copy / "train" / "images").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:500])
    assert ended(arguments(config_file(copy, tmp_path), tmp_path / "tuned"), tmp_path) == 1
    said = capsys.readouterr().err
    assert broken.name in said and "m2f-batch lint" in said and "Traceback" not in said
