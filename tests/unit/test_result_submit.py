"""A submit tells as its result what the job of the cluster tells."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs_api import Cluster, serving
from support.results import SEGMENT, result_of

from m2f_batch.cli import main
from m2f_batch.result import VARIABLE, result_in
from m2f_batch.submit import command, following


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result that the environment asks for."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-token")
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in (command, following):
        monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    with serving(Cluster()) as there:
        yield there


def log_of(exit_code: int) -> str:
    totals = {"images": {"listed": 4, "ok": 3, "error": 1, "remaining": 0}, "segments": 7}
    told = {"run_id": "abc", "totals": totals, "error": f"it is {exit_code}" if exit_code else None}
    line = json.dumps({"time": "t", "level": "info", "event": "result", "output": "s3://b/labels", **told})
    return f"plan    4 images\n{line}\n(raylet) what a library says at the exit\n"


@pytest.mark.parametrize("exit_code", [0, 1, 2, 3, 130, 137])
def test_submit_tells_what_its_job_tells(cluster: Cluster, tmp_path: Path, exit_code: int) -> None:
    cluster.log = log_of(exit_code)
    status = "STOPPED" if exit_code == 130 else "FAILED" if exit_code else "SUCCEEDED"
    cluster.after = {"status": status, "driver_exit_code": exit_code}
    file = tmp_path / "result.json"
    words = ["--address", cluster.url, "--result", str(file)]
    assert main(["submit", *SEGMENT, "--submission-id", "night", *words]) == exit_code
    told = result_of(file)
    assert (told["command"], told["exit_code"], told["submission_id"]) == ("submit", exit_code, "night")
    assert (told["output"], told["run_id"], told["totals"]["segments"]) == ("s3://b/labels", "abc", 7)
    assert told["error"] == (f"it is {exit_code}" if exit_code else None)
    assert cluster.submitted[0]["runtime_env"]["env_vars"][VARIABLE] == "-"
    assert str(file) not in cluster.submitted[0]["entrypoint"]
    assert main(["submit", "follow", "night", *words]) == exit_code
    again = result_of(file, codes_to_try_again=())  # a job that has ended ends so each time
    assert again["totals"] == told["totals"]


def test_a_job_that_nobody_knows_is_asked_for_in_vain(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert main(["submit", "follow", "nosuchjob", "--address", cluster.url, "--result", str(file)]) == 2
    assert (result_of(file)["exit_code"], result_of(file)["retry"]) == (2, False)


def test_submit_of_a_job_that_died_without_a_word(cluster: Cluster, tmp_path: Path) -> None:
    cluster.after = {"status": "FAILED", "driver_exit_code": None, "error_type": "OOM", "message": "node died"}
    file = tmp_path / "result.json"
    assert main(["submit", *SEGMENT, "--address", cluster.url, "--result", str(file)]) == 1
    told = result_of(file)
    assert (told["totals"], told["run_id"], told["output"]) == (None, None, "s3://b/labels")
    assert told["error"].endswith(" failed in Ray (OOM): node died")


def test_submit_that_does_not_wait_or_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ["--address", cluster.url, "--result", str(file), "--submission-id", "night", "--no-wait"]
    assert main(["submit", *SEGMENT, *words]) == 0
    assert (result_of(file)["submission_id"], result_of(file)["totals"]) == ("night", None)
    assert main(["submit", *SEGMENT[:2], "here/labels", *SEGMENT[3:], *words]) == 2
    assert "here/labels" in result_of(file)["error"] and result_of(file)["output"] == "here/labels"


def test_a_log_holds_its_last_result_or_none() -> None:
    assert result_in("nothing\n") is None
    assert result_in('{"event": "result", half') is None
    assert result_in('{"event": "result", "run_id": 1}\n(pid=7) {"event": "result", "run_id": 2}\nend') == {
        "event": "result",
        "run_id": 2,
    }
