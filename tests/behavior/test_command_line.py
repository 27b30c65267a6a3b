"""Whole command lines as a user types them: in a process and with a Ray of their own where these matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEMO_MODEL, LONG, PROJECT
from PIL import Image
from support.engines import config_of, in_process, rows_of, same_but_for_their_names

from m2f_batch.cli import main
from m2f_batch.flow.unit import stages
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify

STOP_SECONDS = 90  # three times what is promised, on a machine that does other work too
COMMAND = [str(Path(sys.executable).with_name("m2f-batch"))]


def m2f_batch(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=580, **options)


def result(file: Path, exit_code: int) -> dict[str, object]:
    """What ``--result`` holds after a command that has ended with ``exit_code``."""
    told = json.loads(file.read_text())
    assert (told["command"], told["exit_code"]) == ("segment", exit_code)
    assert told["retry"] == (exit_code in (1, 130)) and (told["error"] is None) == (exit_code == 0)
    return told


def test_demo_and_what_follows_it(off_ray, tmp_path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    done = m2f_batch("demo", "run", cwd=tmp_path, env=os.environ | {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600, "of its Ray, which others must not enter"
    assert "25 in = 24 ok + 1 error" in done.stdout
    assert "license of the weights: mit" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line or "Warning" in line], done.stderr
    run = tmp_path / "run"
    with Image.open(run / "contact-sheet.png") as sheet:
        assert min(sheet.size) > 500
    assert len(rows_of(run)) == 25

    status = m2f_batch("status", run)
    assert (status.returncode, "25 listed = 24 ok + 1 error + 0 remaining" in status.stdout) == (0, True)
    verified = m2f_batch("verify", run)
    assert (verified.returncode, "verified; finished" in verified.stdout) == (0, True)
    assert m2f_batch("export", run, tmp_path / "coco.json", "--format", "coco").returncode == 0
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 24

    row = next(path for path in (run / "annotations").glob("*.parquet"))
    row.unlink()
    lost = m2f_batch("verify", run)
    assert lost.returncode == 1
    assert "listed images have no row" in lost.stdout

    # the demo has shown that a command starts a Ray and ends with it: these need none
    file = tmp_path / "result.json"
    segment = [*map(str, ("segment", run / "images", run, "--model", DEMO_MODEL, "--result", file))]
    assert main([*segment, "--task", "semantic"]) == 2
    assert (result(file, 2)["output"], result(file, 2)["totals"]) == (str(run), None)
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1
    assert "output.uri" in refused
    again = [*segment, "--task", "panoptic", "--score-threshold", "0.8", "--set", "output.images_per_file=8"]
    assert main(again) == 0
    said = capsys.readouterr().out
    assert "done    25 in = 24 ok + 1 error" in said
    assert "\nconfig  postprocess.score_threshold=0.8, output.images_per_file=8\n" in said
    assert len(rows_of(run)) == 25
    assert main([*again, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert result(file, 0)["totals"]["images"]["ok"] == 24


def test_from_s3_to_s3_equals_from_disk_to_disk(off_ray, moto_s3, scenes, tmp_path, monkeypatch, capsys):
    """What of S3 travels to Ray's workers is shown by ``test_s3_access_runs``."""
    assert in_process(config_of(scenes, tmp_path / "disk", DEMO_MODEL)) == 0
    files = [path for path in scenes.rglob("*") if path.is_file()]
    moto_s3.put({f"in put/{path.relative_to(scenes)}": path.read_bytes() for path in files})
    moto_s3.put({f"models/demo/{path.name}": path.read_bytes() for path in DEMO_MODEL.iterdir()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["segment", f"{moto_s3.uri}/in put/", f"{moto_s3.uri}/out", "--model", f"{moto_s3.uri}/models/demo"]
    command += ["--task", "panoptic", "--set", "output.images_per_file=4", "--result", str(tmp_path / "result.json")]
    assert main(command) == 3  # 1 of 13 is more than 5 %
    said = capsys.readouterr()
    assert "12 ok + 1 error" in said.out
    assert result(tmp_path / "result.json", 3)["totals"]["images"]["ok"] == 12
    assert same_but_for_their_names(rows_of(f"{moto_s3.uri}/out"), rows_of(tmp_path / "disk"))
    assert verify(open_directory(f"{moto_s3.uri}/out"), "panoptic") == []
    assert moto_s3.variables["AWS_SECRET_ACCESS_KEY"] not in said.out + said.err
    assert moto_s3.variables["AWS_SECRET_ACCESS_KEY"].encode() not in open_directory(f"{moto_s3.uri}/out").store.read(
        f"{moto_s3.uri}/out/run.json"
    )


# SIGTERM is what a stop of a submitted job sends, which tests/chaos/test_submit_cluster.py follows to the same end
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGTERM, marks=LONG), signal.SIGINT])
def test_stopped_by_a_signal(stop, scenes, tmp_path):
    images = tmp_path / "images"  # so many that they are not done before the signal, on whatever machine
    images.mkdir()
    for number in range(40):
        for scene in scenes.glob("*.png"):
            os.link(scene, images / f"{number:02d} {scene.name}")
    with subprocess.Popen(
        [
            *(*COMMAND, "segment", str(images), str(tmp_path / "run"), "--model", str(DEMO_MODEL)),
            *("--result", str(tmp_path / "result.json")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + 240
        while not (tmp_path / "run" / "run.json").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(stop)
        signaled = time.monotonic()
        _, errors = process.communicate(timeout=240)
        assert time.monotonic() - signaled < STOP_SECONDS
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    run = open_directory(str(tmp_path / "run"))
    assert not run.is_finished()
    counts = run.read_info()["images"]
    assert counts["remaining"] > 0
    assert counts["ok"] + counts["error"] == len(rows_of(tmp_path / "run"))
    assert counts["listed"] == counts["ok"] + counts["error"] + counts["remaining"]
    assert verify(run, "panoptic") == []
    assert result(tmp_path / "result.json", 130)["totals"]["images"] == counts


def test_a_lost_bucket_is_one_message(off_ray, moto_s3, scenes, tmp_path, monkeypatch, capsys):
    client, file, commit = moto_s3.client(), tmp_path / "result.json", stages.commit
    client.create_bucket(Bucket="doomed")

    def lose(*arguments):
        monkeypatch.setattr(stages, "commit", commit)
        for item in client.list_objects_v2(Bucket="doomed")["Contents"]:
            client.delete_object(Bucket="doomed", Key=item["Key"])
        client.delete_bucket(Bucket="doomed")
        return commit(*arguments)

    monkeypatch.setattr(stages, "commit", lose)
    assert main(["segment", str(scenes), "s3://doomed/out", "--model", str(DEMO_MODEL), "--result", str(file)]) == 1
    errors = capsys.readouterr().err
    assert "doomed" in errors and "doomed" in str(result(file, 1)["error"])
    assert "Traceback" not in errors


def test_jobs_segment_has_the_same_options():
    job = subprocess.run([sys.executable, "jobs/segment.py", "--help"], capture_output=True, text=True, cwd=PROJECT)
    assert job.returncode == 0
    assert "postprocess.overlap_threshold" in job.stdout
    assert job.stdout.splitlines()[1:] == m2f_batch("segment", "--help").stdout.splitlines()[1:]
