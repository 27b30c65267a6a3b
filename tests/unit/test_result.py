"""``--result FILE``: one JSON object for every exit code of every command that has it, wherever FILE is."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, outcome_of
from support.hand_made import Picture, box_mask, make_run
from support.results import FIELDS, SEGMENT, result_of

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.errors import RunError
from m2f_batch.flow import job
from m2f_batch.flow.attempt import finish
from m2f_batch.flow.unit import stages
from m2f_batch.result import MAX_BYTES, VARIABLE, Outcome, Report, fitting, tell
from m2f_batch.runs.directory import open_directory
from m2f_batch.train import command as training
from m2f_batch.train.start.job import TrainJob

SIZE = (12, 16)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result that the environment asks for."""
    monkeypatch.delenv(VARIABLE, raising=False)


# ---- segment, its stages in this process
@pytest.fixture
def segment(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the command over a few scenes in units of 2; returns its exit code and its result."""
    monkeypatch.setattr(job, "segment", outcome_of)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("scene 00.png", "scene 01.png", "scene 02.png", "broken.jpg"):
        (photos / name).write_bytes((scenes / name).read_bytes())

    def segment(*more: str) -> tuple[int, dict[str, Any]]:
        words = [str(photos), str(tmp_path / "out"), "--model", str(DEMO_MODEL), "--task", "panoptic"]
        words += ["--set", "run.images_per_unit=2", "--set", "output.images_per_file=2"]
        code = main(["segment", *words, "--result", str(tmp_path / "result.json"), *more])
        return code, result_of(tmp_path / "result.json")

    return segment


def test_a_run_is_data_and_prints_nothing_of_its_own(scenes: Path, tmp_path: Path, capfd) -> None:
    config = config_of(scenes / "scene 00.png", tmp_path / "out", DEMO_MODEL)
    told: list[Outcome[Any]] = []
    outcome = outcome_of(config, events=None, report=told.append)
    info = open_directory(str(tmp_path / "out")).read_info()
    assert (outcome.output, outcome.run_id, outcome.exit_code, outcome.error) == (
        str(tmp_path / "out"),
        info["run_id"],
        0,
        None,
    )
    assert (outcome.totals.images.ok, outcome.totals.segments) == (1, info["segments"])
    assert told[0].totals is None and {one.run_id for one in told} == {info["run_id"]} and told[-1] == outcome
    assert capfd.readouterr().out == ""


LENIENT = ("--set", "input.max_error_fraction=0.5")


def test_a_run_that_is_done_and_again_with_nothing_to_do(segment, tmp_path: Path) -> None:
    code, told = segment(*LENIENT)
    info = open_directory(str(tmp_path / "out")).read_info()
    assert (code, told["exit_code"], told["command"], told["error"]) == (0, 0, "segment", None)
    assert (told["output"], told["run_id"], told["submission_id"]) == (str(tmp_path / "out"), info["run_id"], None)
    counts = {"listed": 4, "ok": 3, "error": 1, "remaining": 0, "skipped": 0, "duplicates": 0}
    assert told["totals"]["images"] == counts == info["images"]
    assert told["totals"]["segments"] == info["segments"] > 0
    assert told["totals"]["errors"] == info["errors"] and sum(info["errors"].values()) == 1
    again, retold = segment(*LENIENT)
    assert (again, retold["run_id"], retold["totals"]) == (0, told["run_id"], told["totals"])


def test_a_run_of_too_many_errors(segment, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = segment("--quiet")
    error = "more than input.max_error_fraction (0.05) of the images failed"
    assert capsys.readouterr() == ("", f"m2f-batch segment: {error}\n")
    assert (code, told["exit_code"], told["retry"]) == (3, 3, False)
    assert told["error"] == error
    assert told["totals"]["images"] | {"skipped": 0} == {
        "listed": 4,
        "ok": 3,
        "error": 1,
        "remaining": 0,
        "skipped": 0,
        "duplicates": 0,
    }


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (RunError("the bucket is gone"), 1, "the bucket is gone"),
        (KeyboardInterrupt(), 130, "stopped; what was committed is kept"),
    ],
)
def test_a_run_that_ends_on_the_way(segment, tmp_path: Path, monkeypatch, error, exit_code, message) -> None:
    commit, units = stages.commit_unit, []

    def first_alone(*given: Any, **more: Any) -> Any:
        if units:
            raise error
        units.append(1)
        return commit(*given, **more)

    monkeypatch.setattr(stages, "commit_unit", first_alone)
    code, told = segment(*LENIENT)
    assert (code, told["exit_code"], told["error"], told["retry"]) == (exit_code, exit_code, message, True)
    counts = told["totals"]["images"]
    assert (counts["listed"], counts["ok"] + counts["error"], counts["remaining"]) == (4, 2, 2)
    assert told["run_id"] == open_directory(str(tmp_path / "out")).read_info()["run_id"]


def test_what_is_refused_says_nothing_of_the_run_that_is_there(segment, tmp_path: Path) -> None:
    assert segment(*LENIENT)[0] == 0
    code, told = segment("--task", "semantic")
    assert (code, told["exit_code"], told["retry"]) == (2, 2, False)
    assert told["error"].startswith("output.uri: ")
    assert (told["output"], told["run_id"], told["totals"]) == (str(tmp_path / "out"), None, None)


def test_a_bug_is_1_and_still_a_traceback(segment, tmp_path: Path, monkeypatch) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(finish, "_closing_lines", bug)
    with pytest.raises(ZeroDivisionError):
        segment(*LENIENT)
    told = result_of(tmp_path / "result.json")
    assert (told["exit_code"], told["totals"]["images"]["ok"]) == (1, 3)


# ---- a command line that is wrong, and FILE
@pytest.mark.parametrize("job_command", ["segment", "finetune", "evaluate", "submit segment", "submit follow"])
@pytest.mark.parametrize("is_one_word", [True, False])
def test_a_flag_that_is_wrong(tmp_path: Path, capsys, job_command: str, is_one_word: bool) -> None:
    file = tmp_path / "result.json"
    flag = [f"--result={file}"] if is_one_word else ["--result", str(file)]
    code = main([*job_command.split(), "x", "--no-such-flag", *flag])
    told = result_of(file)
    assert (code, told["exit_code"], told["command"]) == (2, 2, job_command.split()[0])
    assert told["error"] in capsys.readouterr().err


def test_a_config_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert main(["segment", "in", "out", "--model", "m", "--task", "pan", "--result", str(file)]) == 2
    told = result_of(file)
    assert told["error"].startswith("model.task: 'pan' is not allowed") and told["output"] == "out"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("no/such/folder/r.json", "cannot be written (No such file or directory); give a file in a folder that exists"),
        (".", "cannot be written (Is a directory); give a file in a folder that exists"),
        ("s3://key:secret@bucket/r.json", "is no local file; give a path on this machine, or -"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything(tmp_path, monkeypatch, capsys, file, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["segment", "in", "out", "--model", "m", "--result", file]) == 2
    error = capsys.readouterr().err
    assert error.startswith("m2f-batch segment: --result: ") and error.endswith(f"{said}\n")
    assert "secret" not in error and not list(tmp_path.iterdir())


def test_help_and_other_commands_write_none(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with pytest.raises(SystemExit):
        main(["segment", "--help", "--result", str(file)])
    for words in (["status", "x"], ["fly"], []):
        assert main([*words, "--result", str(file)]) == 2
    assert not file.exists()


def test_the_variable_means_nothing_to_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "result.json"))
    assert main(["status", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "result.json").exists()


def test_a_file_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    """As Kubernetes mounts /dev/termination-log: a file of its own, in a folder that takes no other."""
    folder = tmp_path / "dev"
    folder.mkdir()
    file, link = folder / "termination-log", tmp_path / "link"
    earlier = {"command": "segment", "exit_code": 1, "retry": True, "error": "of an earlier command, and longer" * 99}
    file.write_text(json.dumps(earlier))
    link.symlink_to(file)
    number = file.stat().st_ino
    folder.chmod(0o555)
    try:
        assert main(["segment", "--result", str(link)]) == 2
    finally:
        folder.chmod(0o755)
    assert link.is_symlink() and file.stat().st_ino == number
    assert result_of(file)["exit_code"] == 2


def test_a_device_and_a_pipe(tmp_path: Path, capsys) -> None:
    assert main(["segment", "--result", "/dev/null"]) == 2
    capsys.readouterr()
    reading, writing = os.pipe()
    assert main(["segment", "--result", f"/dev/fd/{writing}"]) == 2
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read())["exit_code"] == 2
    assert main(["segment", "--result", "/dev/full"]) == 2
    assert "--result: cannot be written (No space left on device)" in capsys.readouterr().err


def test_the_variable_and_the_last_line_of_stdout(monkeypatch, capsys) -> None:
    monkeypatch.setenv(VARIABLE, "-")
    assert main(["evaluate", "/nowhere", "--ground-truth", "x"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.keys() == FIELDS | {"event", "level", "time"}
    assert (told["event"], told["level"], told["exit_code"], told["output"]) == ("result", "info", 2, "/nowhere")


def test_what_is_long_is_shortened_to_what_kubernetes_keeps(monkeypatch) -> None:
    totals = {"images": {"ok": 1}, "errors": {f"decode/{'ü' * 70}{number}": number for number in range(100)}}
    for output in ("s3://b/" + "ü" * 300, "/" + "d/" * 3000):
        text = fitting({"output": output, "error": "ö" * 5000, "totals": totals, "submission_id": None})
        assert len(text) < MAX_BYTES
        assert json.loads(text)["totals"]["images"] == {"ok": 1}
    short = {"output": "/o", "error": None, "totals": {"errors": {"fetch/Denied": 3}}, "submission_id": None}
    assert json.loads(fitting(short)) == short


def test_what_nobody_may_tell() -> None:
    with pytest.raises(ValueError, match="typo"):
        tell(typo=1)


# ---- evaluate and finetune
def test_evaluate(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "result.json"
    mask = box_mask(SIZE, 1, 1, 5, 5)
    run = make_run(tmp_path / "run", [[Picture("/p/a.jpg", SIZE, [(0, 0.9, mask)])]], task="instance")
    polygon = [[1, 1, 6, 1, 6, 6, 1, 6]]
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}],
        "categories": [{"id": 17, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 17, "segmentation": polygon, "iscrowd": 0}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    words = ["evaluate", run.uri, "--ground-truth", str(tmp_path / "truth.json"), "--result", str(file)]
    assert main(words) == 0
    told = result_of(file)
    assert (told["exit_code"], told["output"], told["run_id"]) == (0, run.uri, run.read_info()["run_id"])
    assert told["totals"]["rows"]["ok"] == 1 and told["totals"]["metrics"]["AP"] >= 0
    assert main([*words, "--metrics", "nonsense"]) == 2
    assert "nonsense" in result_of(file)["error"]
    (tmp_path / "run" / "_SUCCESS").unlink()
    assert main(words) == 1
    assert "is not finished" in result_of(file)["error"]

    def stopped(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("m2f_batch.evaluation.command.evaluate", stopped)
    assert main(words) == 130
    assert result_of(file)["exit_code"] == 130


@pytest.mark.parametrize(
    ("error", "exit_code"), [(None, 0), (RunError("no memory"), 1), (KeyboardInterrupt(), 130)], ids=str
)
def test_finetune(tmp_path: Path, monkeypatch, error: BaseException | None, exit_code: int) -> None:
    from support.train_jobs import DATASET, job_of

    from m2f_batch.train.output.hold_output import held

    out, file = tmp_path / "out", tmp_path / "result.json"
    planned = job_of(out)
    lines = [
        {"step": 4, "kind": "train", "loss": 2.0, "time": 1.0},
        {"step": 5, "kind": "validation", "AP": 0.25, "AP50": 0.5, "time": 1.0},
        {"step": 10, "kind": "validation", "AP": 0.125, "AP50": 0.5, "time": 1.0},
    ]

    def trained(config: FinetuneConfig, say: object, report: Report[training.TrainTotals]) -> Outcome[Any]:
        with held(planned, print) as ours:
            ours.place.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        outcome = training.outcome_of(planned)
        report(outcome)
        if error is not None:
            raise error
        return outcome

    monkeypatch.setattr(training, "_finetune", trained)
    words = ["finetune", "x.json", str(out), "--set", "train.steps=10", "--task", "instance"]
    assert main([*words, "--result", str(file)]) == exit_code
    told = result_of(file)
    assert (told["exit_code"], told["output"]) == (exit_code, str(out))
    assert told["run_id"] == json.loads((out / "finetune.json").read_text())["run_id"]
    best = {"step": 5, "AP": 0.25, "AP50": 0.5}
    assert told["totals"] == {"step": 10, "steps": 10, "images": {"train": len(DATASET.table), "val": 0}, "best": best}
    assert main([*words, "--set", "train.nonsense=1", "--result", str(file)]) == 2
    assert (result_of(file)["run_id"], result_of(file)["totals"]) == (None, None)


@pytest.mark.parametrize("error", [None, RunError("no memory"), KeyboardInterrupt()], ids=str)
@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_training_is_read_once_and_after_its_output_is_let_go(
    tmp_path: Path, monkeypatch, error: BaseException | None, is_wanted: bool
) -> None:
    from support.train_jobs import job_of

    planned = job_of(tmp_path / "out")
    seen, said, told = list[str](), list[str](), list[Outcome[Any]]()
    held, outcome_of = training.held, training.outcome_of

    @contextmanager
    def holding(*arguments: Any) -> Iterator[Any]:
        try:
            with held(*arguments) as ours:
                yield ours
        finally:
            seen.append("let go")

    def trained(place: object) -> None:
        seen.append("trained")
        if error is not None:
            raise error

    def read(job: TrainJob) -> Outcome[Any]:
        seen.append("read")
        return outcome_of(job)

    stubs = {"held": holding, "outcome_of": read, "plan_job": lambda *_: planned, "check_images": lambda _: None}
    for name, stub in stubs.items():
        monkeypatch.setattr(training, name, stub)
    monkeypatch.setattr(training, "plan_lines", lambda _: [])
    monkeypatch.setattr(training, "_here", lambda *_: trained)
    run = partial(training.finetune, planned.config, say=said.append, report=told.append if is_wanted else None)
    if error is None:
        assert run().run_id == json.loads((tmp_path / "out" / "finetune.json").read_text())["run_id"]
        assert run().totals.steps == 10
        assert seen == ["trained", "let go", "read", "read"]
        assert [line.split()[0] for line in said] == ["done", "done"] and "nothing to do" in said[1]
        return
    with pytest.raises(type(error)):
        run()
    assert seen == ["trained", "let go", *["read"] * is_wanted]
    assert len(told) == is_wanted


STOPPED = {
    "segment": ["s3://bucket/in", "s3://bucket/out", "--model", str(DEMO_MODEL)],
    "finetune": ["s3://bucket/train.json", "s3://bucket/out", "--task", "instance", "--set", "train.steps=1"],
    "evaluate": ["s3://bucket/run", "--ground-truth", "s3://bucket/truth.json"],
    "submit": [*SEGMENT, "--submission-id", "night", "--address"],
}


@pytest.mark.slow
@pytest.mark.parametrize("job_command", STOPPED)
def test_a_process_that_is_stopped(job_command: str, tmp_path: Path) -> None:
    """SIGTERM as a scheduler sends it, to a real process that waits for a server: 130, and the result is whole."""
    file = tmp_path / "result.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = [job_command, *STOPPED[job_command], *([url] if job_command == "submit" else [])]
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "RAY_AUTH_TOKEN": "secret-token"}
        process = subprocess.Popen(
            [sys.executable, "-m", "m2f_batch.cli", *words, "--result", str(file)],
            env=os.environ | keys | {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "HOME": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        silent, _ = server.accept()  # it has asked, and gets no answer
        with silent:
            process.terminate()
            _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said.decode()
    told = result_of(file)
    assert (told["command"], told["exit_code"], told["retry"]) == (job_command, 130, True)
    assert told["output"] in ("s3://bucket/out", "s3://bucket/run", "s3://b/labels") and told["totals"] is None
