"""Jobs submitted to a real Ray head with a token: exit codes, rows, refusals, and a stop that loses nothing."""

import json
import os
import pty
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from conftest import DEMO_MODEL, LONG, PROJECT
from support.ray_start import OF_TESTS

from benchmarks.lib.ray_folder import free_port, kill_all
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.processes import PASSIVE
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify

SECONDS = 240.0  # for what takes some 20 on a machine with nothing else to do
SECRET = secrets.token_urlsafe(30)
SMALL = ("--set", "compute.actors=1", "--set", "compute.threads_per_actor=1")


@dataclass
class Head:
    """A Ray head with a token; its processes have ``folder`` in their environment."""

    folder: str  # short: Ray puts sockets below it
    ports: list[int] = field(default_factory=lambda: free_ports(5))
    token: dict[str, str] = field(
        default_factory=lambda: {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """That of who submits."""
        return bare_environment() | self.token | {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "xx-test-1"}

    def start(self) -> None:
        """Begin anew; returns once it answers."""
        ours = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # jobs are run by "python"
            "RAY_TMPDIR": self.folder,
            "RAY_enable_worker_prestart": "0",  # processes that no job can use: each has an environment of its own
            **OF_TESTS,
            **PASSIVE,
            "HOME": self.folder,
        }
        gcs, dashboard, agent, client, metrics = self.ports
        options = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        options += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}", "--num-cpus=2", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options, "--disable-usage-stats"]
        log = Path(self.folder, "head.log")
        with log.open("w+") as said:
            ray = subprocess.Popen(
                command, env=bare_environment() | self.token | ours, stdout=said, stderr=said, start_new_session=True
            )
        wait_until(lambda: ray.poll() is not None or answers(self.url), log)
        assert ray.poll() is None, log.read_text()

    def kill(self) -> None:
        """All its processes at once, and what they run. (A polite end takes 30 s.)"""
        kill_all(Path(self.folder))


def bare_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_STOP_WAIT_TIME_S")
    }


def free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return [*ports]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    from ray._private.utils import get_dashboard_dependency_error

    if get_dashboard_dependency_error() is not None:
        pytest.skip("the Jobs API is not installed: ray[default] brings it")
    there = Head(tempfile.mkdtemp(prefix="m2f-"))
    try:
        there.start()
        yield there
    finally:
        there.kill()
        shutil.rmtree(there.folder, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=5).status == 200
    except OSError:
        return False


def wait_until(done: Any, log: Path) -> None:
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def submit(head: Head, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command and what it said; its result says the same exit code, whatever that is."""
    file = Path(head.folder, "result.json")
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", "submit", *arguments, "--address", head.url, "--result", str(file)],
        env=head.environment | environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    told = json.loads(file.read_text())
    assert (told["command"], told["exit_code"]) == ("submit", done.returncode)
    assert told["retry"] == (done.returncode not in (0, 2, 3)) and (told["error"] is None) == (done.returncode == 0)
    return done


def job_details(head: Head) -> list[dict[str, Any]]:
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(f"{head.url}/api/jobs/", headers=token), timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def labelled(head: Head, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """OUTPUT of a job that has labelled twelve scenes, and a broken image too many, and what was said."""
    output = tmp_path_factory.mktemp("submitted") / "labels"
    return output, submit(
        head, "segment", str(scenes), str(output), "--model", str(DEMO_MODEL), *SMALL, "--submission-id", "night"
    )


def test_a_job_is_followed_to_its_own_exit_code(head, labelled, scenes):
    output, done = labelled
    assert done.returncode == 3, done  # one of 13 images is broken, more than 5 %
    assert "13 in = 12 ok + 1 error" in done.stdout and "night ended with exit code 3" in done.stderr
    rows = pyarrow.dataset.dataset(output / "annotations").to_table(["uri", "status"]).to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(map(str, [*scenes.rglob("*.png"), *scenes.rglob("*.jpg")]))
    assert (output / "_SUCCESS").exists()


def test_an_id_that_is_there_is_followed_and_not_doubled(head, labelled, scenes):
    output, first = labelled
    job = ("segment", str(scenes), str(output), "--model", str(DEMO_MODEL), *SMALL)
    again = submit(head, *job, "--submission-id", "night")
    assert (again.returncode, again.stdout) == (3, first.stdout)
    other = submit(head, *job, "--task", "instance", "--submission-id", "night")
    assert (other.returncode, other.stdout) == (2, "") and "night is another job" in other.stderr
    assert submit(head, "follow", "night").returncode == 3
    assert [job["submission_id"] for job in job_details(head) if job["submission_id"]] == ["night"]


def test_a_client_without_ray_is_answered_as_we_are(head, client, labelled, tmp_path):
    token, address = head.token, ("--address", head.url)
    followed = client.run("submit", "follow", "night", *address, "--result", str(tmp_path / "result.json"), **token)
    assert (followed.returncode, followed.stdout) == (3, labelled[1].stdout)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["exit_code"], result["output"], result["totals"]["images"]["ok"]) == (3, str(labelled[0]), 12)
    # a job of its own, with its own code, on the head's Ray, and a mistake that only the cluster sees
    job = ("evaluate", str(tmp_path / "no run"), "--ground-truth", str(tmp_path / "none.json"))
    done = client.run("submit", *job, *address, "--result", str(tmp_path / "result.json"), **token)
    assert done.returncode == 2 and "no run" in done.stdout and "Traceback" not in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["command"], result["exit_code"], result["retry"]) == ("submit", 2, False) and result["error"]


@LONG
def test_a_run_is_measured_there_as_it_is_here(head, tmp_path):
    write_dataset(tmp_path, train=0, val=4)
    output, truth, folder = tmp_path / "labels", str(tmp_path / "val.json"), tmp_path / "val"
    job = ("segment", str(folder / "images"), str(output), "--model", str(DEMO_MODEL), *SMALL)
    assert submit(head, *job).returncode == 0
    places = ("--ground-truth", truth, "--images", str(folder / "images"), "--masks", str(folder / "masks"))
    evaluate = ("evaluate", str(output), *places, "--json")
    there = submit(head, *evaluate, str(tmp_path / "there.json"))
    here = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *evaluate, str(tmp_path / "here.json")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (there.returncode, here.returncode) == (0, 0), (there, here)
    figures = json.loads((tmp_path / "here.json").read_text())
    assert json.loads((tmp_path / "there.json").read_text()) == figures
    assert here.stdout.replace("here.json", "there.json") in there.stdout and "PQ" in here.stdout


def test_rays_own_command_runs_the_same_job(head, labelled, scenes, tmp_path):
    output, _ = labelled
    config = tmp_path / "job.yaml"
    config.write_text(
        f"input: {{uri: {scenes}, max_error_fraction: 1}}\nmodel: {{uri: {DEMO_MODEL}}}\noutput: {{uri: {output}}}\n"
        "compute: {actors: 1, threads_per_actor: 1}\n"
    )
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.url]
    command += ["--working-dir", ".", "--", "python", "jobs/segment.py", "--config", str(config)]
    done = subprocess.run(command, env=head.environment, cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done
    assert "there is nothing to do" in done.stdout
    assert "nothing new: 13 in = 12 ok + 1 error" in done.stdout  # the same job as ours, by its fingerprint


def test_tokens_are_asked_for(head, tmp_path):
    job = ("segment", "/refused-images", str(tmp_path / "out"), "--model", "owner/name")
    other = secrets.token_hex(32)
    for token in ({}, {"Authorization": f"Bearer {other}"}):
        with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
            urllib.request.urlopen(urllib.request.Request(f"{head.url}/api/jobs/", headers=token), timeout=30)
    wrong = submit(head, *job, RAY_AUTH_TOKEN=other)
    assert wrong.returncode == 2 and "403" in wrong.stderr
    none = submit(head, *job, RAY_AUTH_MODE="disabled")
    assert none.returncode == 2 and "asks for a token" in none.stderr
    assert not any("/refused-images" in str(job) for job in job_details(head))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def long_job(head, scenes, tmp_path):
    """Arguments of a job of 1500 images in units of 8, and its OUTPUT."""
    many, output = tmp_path / "many", tmp_path / "labels"
    many.mkdir()
    for number in range(1500):
        os.link(scenes / f"scene {number % 10:02d}.png", many / f"{number:04d}.png")
    settings = (*SMALL, "--set", "run.images_per_unit=8")
    return ["segment", str(many), str(output), "--model", str(DEMO_MODEL), *settings], output


@contextmanager
def following(head: Head, arguments: list[str], output: Path, said: Path, **streams: Any) -> Iterator[Any]:
    """The command that follows a job, once this has written its first rows; it is killed at the end."""
    with said.open("w+") as log:
        follower = subprocess.Popen(
            [sys.executable, "-m", "m2f_batch.cli", "submit", *arguments, "--address", head.url],
            env=head.environment,
            cwd=PROJECT,
            **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | streams,
        )
    try:
        wait_until(lambda: list(output.glob("annotations/*.parquet")) or follower.poll() is not None, said)
        assert follower.poll() is None, said.read_text()
        yield follower
    finally:
        follower.kill()
        follower.wait()


def test_a_stop_drains(head, long_job, tmp_path):
    arguments, output = long_job
    terminal, ours = pty.openpty()
    said = tmp_path / "said"
    told = tmp_path / "result.json"
    with following(head, [*arguments, "--result", str(told)], output, said, stdin=ours, stderr=ours) as follower:
        follower.send_signal(signal.SIGINT)
        asked = b""
        while b"[s]top it" not in asked:
            asked += os.read(terminal, 4096)
        os.write(terminal, b"s\n")
        code = follower.wait(SECONDS)
    os.close(ours)
    os.close(terminal)
    text = said.read_text()
    assert code == 130, text
    # the job said so itself: it was not killed
    assert "stopped; what was committed is kept" in text
    totals = json.loads((output / "run.json").read_text())["images"]
    rows = pyarrow.dataset.dataset(output / "annotations").to_table(["uri"]).column("uri").to_pylist()
    assert 0 < len(set(rows)) == len(rows) < 1500 and not (output / "_SUCCESS").exists()
    assert totals["listed"] == 1500 == totals["ok"] + totals["error"] + totals["remaining"]
    assert totals["ok"] >= len(rows)
    assert verify(open_directory(str(output)), "panoptic") == []
    result = json.loads(told.read_text())
    assert (result["exit_code"], result["retry"], result["totals"]["images"]) == (130, True, totals)


def test_no_key_is_in_what_the_cluster_shows(head, labelled):
    details = job_details(head)
    assert "xx-test-1" in str(details) and "RAY_JOB_STOP_WAIT_TIME_S" in str(details)
    assert SECRET not in str(details) and head.environment["RAY_AUTH_TOKEN"] not in str(details)


@LONG
def test_a_head_that_dies_and_starts_anew(head, long_job, tmp_path):  # the last test: it takes the head's jobs with it
    arguments, output = long_job
    arguments = [*arguments, "--set", "run.lease_seconds=5"]
    said = tmp_path / "said"
    with following(head, [*arguments, "--submission-id", "long"], output, said) as follower:
        head.kill()
        wait_until(lambda: "trying again for 600 s" in said.read_text(), said)
        head.start()
        assert follower.wait(SECONDS) == 1, said.read_text()
    assert "knows no job long" in said.read_text() and "Submitted again, it goes on" in said.read_text()
    done = submit(head, *arguments, "--submission-id", "long")
    assert done.returncode == 0, done
    rows = pyarrow.dataset.dataset(output / "annotations").to_table(["uri"]).column("uri").to_pylist()
    assert len(set(rows)) == len(rows) == 1500 and (output / "_SUCCESS").exists()
