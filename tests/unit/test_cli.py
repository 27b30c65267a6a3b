"""The command line in this process: exit codes, one message on stderr, help that knows every key."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from PIL import Image
from support.hand_made import Picture, box_mask, make_model, make_run

from m2f_batch.cli import main
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import ImageError, RunError, TransientError
from m2f_batch.version import VERSION

SIZE = (12, 16)


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    units = [
        [Picture("/p/a.jpg", SIZE, [(0, 0.9, box_mask(SIZE, 1, 1, 3, 3))])],
        [Picture("/p/b.jpg", error=ImageError("fetch", "NotFound", "gone"))],
    ]
    return make_run(tmp_path / "run", units).uri


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that is wrong: exit code 2, all of it on stderr, no traceback."""
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's own
        code = exit.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert "Traceback" not in said.err and said.err.endswith("\n")
    return said.err


def test_mistakes_in_the_config_name_every_field(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = mistake(capsys, "segment", "in", str(out), "--model", "m", "--task", "pan", "--set", "modle.uri=x")
    assert said.splitlines() == [
        "m2f-batch segment: model.task: 'pan' is not allowed; allowed: instance, semantic or panoptic; did you mean "
        "panoptic?",
        "modle: unknown key (value {'uri': 'x'}); did you mean model?",
    ]
    assert "input.uri, model.uri, output.uri: are not given" in mistake(capsys, "segment") and not out.exists()
    assert "--config none.yaml: cannot be read" in mistake(capsys, "segment", "a", "b", "--config", "none.yaml")


def test_argparse_mistakes(capsys: pytest.CaptureFixture[str], run_uri: str, tmp_path: Path) -> None:
    said = mistake(capsys, "fly")
    assert said.startswith("m2f-batch: 'fly' is no command; commands: convert, ") and "did you mean" not in said
    assert "did you mean" not in mistake(capsys, "submit", "foo")
    assert mistake(capsys, "segmnt").endswith("; did you mean m2f-batch segment?\n")
    assert mistake(capsys, "submit", "finetun").endswith("; did you mean m2f-batch submit finetune?\n")
    assert "--no-such" in mistake(capsys, "status", run_uri, "--no-such")


def test_a_bad_task_of_the_demo_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = mistake(capsys, "demo", str(tmp_path / "demo"), "--task", "everything")
    assert "'everything' is not known; allowed: instance, semantic, panoptic" in said
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", ["status", "verify", "export"])
def test_a_run_that_holds_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    more = [str(tmp_path / "x.json"), "--format", "coco"] if command == "export" else []
    said = mistake(capsys, command, str(tmp_path), *more)
    assert said == (f"m2f-batch {command}: RUN: {tmp_path} holds no run.json; give the OUTPUT of 'm2f-batch segment'\n")
    for place in ("", "gopher://a/b", "s3://key:secret@bucket/run"):
        said = mistake(capsys, command, place, *more)
        assert len(said.splitlines()) == 1 and "secret" not in said


def test_a_bad_format_or_ground_truth(capsys: pytest.CaptureFixture[str], run_uri: str, tmp_path: Path) -> None:
    dest = str(tmp_path / "new" / "x.json")
    said = mistake(capsys, "export", run_uri, dest, "--format", "pascal")
    assert said == "m2f-batch export: --format: 'pascal' is not known; allowed: coco, coco-results\n"
    said = mistake(capsys, "export", run_uri, dest, "--format", "coco", "--ground-truth", f"{tmp_path}/gt.json")
    assert said.startswith(f"m2f-batch export: --ground-truth {tmp_path}/gt.json: ") and len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_status_verify_and_export_of_a_run(capsys: pytest.CaptureFixture[str], run_uri: str, tmp_path: Path) -> None:
    assert main(["status", run_uri]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{run_uri}: finished at 2026-11-20T10:00:09+00:00; started at 2026-11-20T10:00:00+00:00",
        "model   /models/m (panoptic, license mit)",
        "images  2 listed = 1 ok + 1 error + 0 remaining; 3 skipped, 2 duplicates",
        "rate    0.5 images/s over 9 s; 1 segments",
        "failed  1 x fetch/NotFound",
    ]
    assert main(["verify", run_uri]) == 0
    assert main(["export", run_uri, str(tmp_path / "x.json"), "--format", "coco"]) == 0
    assert len(json.loads((tmp_path / "x.json").read_text())["annotations"]) == 1
    capsys.readouterr()
    assert main(["verify", run_uri, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == {"listed": 2, "ok": 1, "error": 1, "remaining": 0, "staged": 0}
    assert (told["run"], told["problems"], told["finished"], told["segments"]) == (run_uri, [], True, 1)
    next((Path(run_uri) / "annotations").glob("*.parquet")).write_bytes(b"")
    (Path(run_uri) / "annotations" / "x.parquet").write_bytes(b"")
    capsys.readouterr()
    assert main(["verify", run_uri]) == 1
    said = capsys.readouterr().out
    assert "cannot be read as Parquet" in said
    assert "x.parquet: is not of this run" in said
    assert main(["verify", run_uri, "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("cannot be read as Parquet" in problem for problem in problems) and len(problems) > 1
    assert main(["export", run_uri, str(tmp_path / "y.json"), "--format", "coco"]) == 1
    assert "cannot be read as Parquet" in capsys.readouterr().err


def test_lint_as_json_on_stdout_is_all_that_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (16, 12), "red").save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 12, "width": 16}
    box = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]}
    truth = {"images": [image], "annotations": [box], "categories": [{"id": 9, "name": "cat"}]}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    words = ["lint", str(tmp_path / "t.json"), "--images", str(tmp_path)]
    code = main([*words, "--json", str(tmp_path / "report.json")])
    lines = capsys.readouterr().out
    assert main([*words, "--json", "-"]) == code
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "report.json").read_text())
    assert json.loads(said.out)["images"] == {"train": 1, "val": 0}
    assert said.err == lines and "images to train on" in lines


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("lost"), 1, "m2f-batch status: lost\n"),
        (TransientError("slow"), 1, "m2f-batch status: slow; try again later\n"),
        (KeyboardInterrupt(), 130, "m2f-batch status: stopped; what was committed is kept\n"),
    ],
)
def test_exit_codes_of_what_can_go_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    from m2f_batch.runs.inspect import status

    def fail(run_uri: str) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(status, "read_status", fail)
    assert main(["status", "x"]) == code
    assert capsys.readouterr().err == said


def test_sigterm_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    from m2f_batch.runs.inspect import status

    def stopped(run_uri: str) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        return {}

    monkeypatch.setattr(status, "read_status", stopped)
    assert main(["status", "x"]) == 130


def test_help_lists_every_config_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["segment", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert exit.value.code == 0
    for key, field in fields_of(SegmentConfig):
        words = f" {key} {' '.join((field.description or '').split())}"
        assert words in said, key
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert default is None or field.is_required() or f"{words} [{default}]" in said


def test_alone_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = mistake(capsys)
    assert said.startswith("usage: m2f-batch ") and "\n    segment " in said and "\nexamples:\n" in said
    assert mistake(capsys, "submit").startswith("usage: m2f-batch submit ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"m2f-batch {VERSION}\n")


def test_quiet_prints_errors_alone(capsys: pytest.CaptureFixture[str], run_uri: str, tmp_path: Path) -> None:
    for words in (["verify", run_uri], ["status", run_uri], ["export", run_uri, str(tmp_path / "x.json")]):
        assert main([*words, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")
        assert main([*words, "-q"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["annotations"]
    assert main(["verify", run_uri, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert "holds no run.json" in mistake(capsys, "verify", str(tmp_path), "--quiet")
    assert main(["verify", run_uri]) == 0 and "verified" in capsys.readouterr().out


def test_quiet_says_why_a_run_does_not_verify(capsys: pytest.CaptureFixture[str], run_uri: str) -> None:
    (Path(run_uri) / "annotations" / "x.parquet").write_bytes(b"")
    assert main(["verify", run_uri, "--quiet"]) == 1
    said = capsys.readouterr()
    assert "x.parquet: is not of this run" in said.err and " problems; " in said.err and said.out == ""


def test_quiet_says_what_lint_has_found_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 12), "red").save(tmp_path / "photos" / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 12, "width": 16}
    box = {"id": 1, "image_id": 1, "category_id": 9, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    truth = {"images": [image], "annotations": [box], "categories": [{"id": 9, "name": "cat"}]}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    words = ["lint", str(tmp_path / "t.json"), "--quiet"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.err.startswith("fault   sliver-mask: 1\n") and "\nfaulty  1 images" in said.err and said.out == ""
    assert "note " not in said.err  # of the name that was looked for
    assert main([*words, "--ignore", "sliver-mask"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_mistakes_of_a_job_end_with_2_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process more: it imports ray, and says what is wrong with model and input before it starts any."""
    make_model(tmp_path / "m", task="panoptic")
    (tmp_path / "in").mkdir()
    cases = [
        ["in", "out", "--model", "gone"],
        ["in", "out", "--model", "m", "--task", "semantic", "--set", "postprocess.top_k=5"],
        ["in", "out", "--model", "m", "--set", "preprocess.size=paper"],
        ["in", "out", "--model", "m", "--set", "model.allowed_licenses=[mit]"],
        ["in", "in/out", "--model", "m"],
        ["in", "out", "--model", "m"],
    ]
    code = f"""
import sys
from m2f_batch.cli import main
codes = [main(["segment", *case]) for case in {cases!r}]
assert codes == [2] * {len(cases)}, codes
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    fields = [line.removeprefix("m2f-batch segment: ").partition(":")[0] for line in done.stderr.splitlines()]
    assert fields == [
        *("model.uri", "postprocess.top_k", "preprocess.size", "model.allowed_licenses", "output.uri", "input.uri")
    ]
    assert done.stdout == "" and sorted(path.name for path in tmp_path.iterdir()) == ["in", "m"]


def test_the_command_line_loads_neither_torch_nor_ray() -> None:
    code = """
import sys
from m2f_batch import cli
for heavy in ("torch", "ray", "transformers", "boto3", "pyarrow", "numpy"):
    assert heavy not in sys.modules, heavy
import m2f_batch.runs.inspect.status, m2f_batch.runs.inspect.verify, m2f_batch.exports.command, m2f_batch.models.source
import m2f_batch.models.checkpoint, m2f_batch.vision.label_settings
for heavy in ("torch", "ray", "transformers"):
    assert heavy not in sys.modules, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
