"""Ctrl-C and SIGTERM while a job is followed, and what a client needs."""

import io
import os
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT
from support.jobs_api import Cluster
from support.submitting import TOKEN

from m2f_batch.cli import main
from m2f_batch.commands import submit as submit_command
from m2f_batch.errors import RunError
from m2f_batch.installed import MODULES
from m2f_batch.submit import following, interrupts
from m2f_batch.submit.address import parse_address

pytestmark = pytest.mark.usefixtures("as_anybody")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def interrupted(monkeypatch, cluster: Cluster, interrupt: type[KeyboardInterrupt], answers: str | None) -> int:
    """The exit code of following a job whose first connection ends with an interrupt, on a terminal or not."""
    real, calls = following.JobsApi.tail, []

    async def tail(api, job_id):
        calls.append(job_id)
        if len(calls) == 1:
            raise interrupt
        async for text in real(api, job_id):
            yield text

    monkeypatch.setattr(following.JobsApi, "tail", tail)
    if answers is not None:
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    return main(["submit", "follow", "mine", "--address", cluster.url])


@pytest.mark.parametrize(
    ("interrupt", "answers", "code", "stopped"),
    [
        (KeyboardInterrupt, "s\n", 130, ["mine"]),
        (KeyboardInterrupt, "what?\nl\n", 130, []),
        (KeyboardInterrupt, "g\n", 0, []),
        (KeyboardInterrupt, "", 130, []),  # nobody is there any more
        (KeyboardInterrupt, None, 130, []),
        (interrupts.Terminated, "s\n", 130, []),
    ],
)
def test_what_becomes_of_the_job(interrupt, answers, code, stopped, cluster, capsys, monkeypatch) -> None:
    assert interrupted(monkeypatch, cluster, interrupt, answers) == code
    said = capsys.readouterr()
    assert cluster.stopped == stopped
    if code == 130 and not stopped:
        assert f"m2f-batch submit follow mine --address {cluster.url}" in said.err
    else:
        assert said.out == cluster.log  # to its end


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        (None, "mine may go on without us: the cluster does not answer"),
        ("s\n", "mine may not have been asked to stop: the cluster has not answered"),
    ],
)
def test_what_is_said_of_a_job_whose_cluster_has_fallen_silent(answers, left, cluster, capsys, monkeypatch) -> None:
    said = submit_command._say

    def interrupting(text: str) -> None:
        said(text)
        if "trying again" in text:
            raise KeyboardInterrupt

    async def lost(api, job_id):
        cluster.proxy["/api/jobs/mine"] = [502] * 99
        if answers is not None:
            raise KeyboardInterrupt  # is answered by asking for its end
        yield ""

    monkeypatch.setattr(submit_command, "_say", interrupting)
    monkeypatch.setattr(following.JobsApi, "tail", lost)
    if answers is not None:
        monkeypatch.setattr(sys, "stdin", Terminal(answers))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cluster.jobs["mine"] = {"status": "RUNNING"}
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 130
    assert f"{left}; this follows it again:" in capsys.readouterr().err and not cluster.stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_real_signal_without_a_terminal_leaves_the_job(number, cluster, tmp_path) -> None:
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n", *["wait"] * 60]]
    follower = subprocess.Popen(
        [sys.executable, "-m", "m2f_batch.cli", "submit", "follow", "mine", "--address", cluster.url],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout.readline() == "one\n"
        follower.send_signal(number)
        _, said = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert follower.returncode == 130 and not cluster.stopped
    assert (
        f"mine goes on without us; this follows it again:\n    m2f-batch submit follow mine --address {cluster.url}"
        in said
    )
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_quiet_log_is_no_lost_connection(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.client.ANSWER_SECONDS", 3)  # a loaded machine answers within them
    cluster.jobs["mine"] = {"status": "RUNNING"}
    cluster.script = [["one\n", *["wait"] * 4, "two\nthree\n"]]
    assert main(["submit", "follow", "mine", "--address", cluster.url]) == 0
    said = capsys.readouterr()
    assert said.out == cluster.log and "trying again" not in said.err


def test_the_nightly_command_of_kubernetes(cluster, capsys, monkeypatch) -> None:
    overlay = PROJECT / "infra" / "kubernetes" / "overlays" / "nightly" / "cronjob.yaml"
    pod = yaml.safe_load(overlay.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {
        "$(NIGHT)": "m2f-batch-nightly-29876543",
        "/etc/m2f-batch/nightly.yaml": str(PROJECT / "jobs/nightly.yaml"),
    }
    words = [values.get(word, word) for word in (*container["command"], *container["args"])]
    assert words[0] == "m2f-batch" and "http://m2f-batch-head-svc:8265" in words
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    words[words.index("http://m2f-batch-head-svc:8265")] = cluster.url
    assert main(words[1:]) == 0
    assert list(cluster.jobs) == ["m2f-batch-nightly-29876543"]
    variables = {variable["name"] for variable in container["env"]}
    assert {"NIGHT", "RAY_AUTH_TOKEN", "HOME"} <= variables


def test_run_error_of_a_refusal_is_one_line(cluster) -> None:
    import asyncio

    from m2f_batch.submit.client import JobsApi

    async def twice() -> None:
        async with JobsApi(parse_address(cluster.url), TOKEN) as api:
            await api.authenticate()
            await api.submit("mine", "true", {}, {})
            await api.submit("mine", "true", {}, {})

    with pytest.raises(RunError, match=r"answers 500 ValueError: Job already exists\.$"):
        asyncio.run(twice())


def test_submitting_needs_nothing_but_what_the_client_brings() -> None:
    imports = "".join(
        f"import m2f_batch.{name}\n" for name in ("cli", "submit.command", "submit.jobs", "submit.package")
    )
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(MODULES)}))\n{imports}"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=60)
