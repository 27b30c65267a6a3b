"""The crontab, read by python-crontab and croniter; its line run as cron runs it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import FINAL, PROJECT, SCHEDULERS, check_told

crontab = pytest.importorskip("crontab", reason="make test-tools")
croniter = pytest.importorskip("croniter", reason="make test-tools")


def line() -> Any:
    table = crontab.CronTab(tabfile=str(SCHEDULERS / "crontab"))
    (job,) = table.crons
    assert job.is_valid()
    assert set(job.env) == {"MAILTO", "RAY_API_SERVER_ADDRESS"}, "no token stands in it"
    return job


def test_it_runs_once_a_night() -> None:
    job = line()
    assert str(job.slices) == "15 2 * * *" and croniter.croniter.is_valid(str(job.slices))
    assert job.frequency_per_day() == 1


def test_its_line_is_whole_for_cron() -> None:
    assert "%" not in (SCHEDULERS / "crontab").read_text().replace(r"\%", ""), "a bare % ends cron's line"
    for words in (["-c", line().command], [str(SCHEDULERS / "nightly.sh")]):
        subprocess.run(["sh", "-n", *words], check=True)


def test_each_exit_code(ending: Any, tmp_path: Path) -> None:
    exit_code, cluster = ending
    command = line().command.replace("/srv/m2f-batch", str(PROJECT))
    environment = {name: os.environ[name] for name in ("HOME", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS")}
    environment |= {"PATH": "/usr/bin:/bin", "WAIT_SECONDS": "0"}  # cron's own
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (exit_code, "")
    (file,) = (tmp_path / ".local" / "state" / "m2f-batch").glob("night-*.json")
    check_told(exit_code, json.loads(file.read_text()))
    if exit_code == 0:
        assert done.stdout == "", "cron mails what it says"
    else:
        assert json.loads(done.stdout.splitlines()[0])["error"] == f"it is {exit_code}"
        assert f"{file.stem} ended with exit code {exit_code}" in done.stdout or "was stopped" in done.stdout
    tries = file.with_suffix(".log").read_text().count("m2f-batch submit: ")
    submitted = [file.stem] if exit_code in FINAL else [file.stem, f"{file.stem}-2", f"{file.stem}-3"]
    assert cluster.submitted() == submitted, "a job that failed or was stopped goes on under the next id"
    assert (tries > 2) == (exit_code not in FINAL)


@pytest.mark.parametrize("here", ["", "not executable"])
def test_a_path_without_the_command_ends_at_once(here: str, tmp_path: Path) -> None:
    """cron's own PATH is short. Nobody waits for 20 minutes to hear of that."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    if here:
        (tmp_path / "m2f-batch").write_text("#!/nowhere/python\n")
        (tmp_path / "m2f-batch").chmod(0o755)
        environment["PATH"] += f":{tmp_path}"
    words = ["/bin/sh", str(SCHEDULERS / "nightly.sh"), "night-20261129"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode in (126, 127)
    assert "m2f-batch" in done.stdout and (here or "PATH=/usr/bin:/bin" in done.stdout), done
    assert (done.stderr, (tmp_path / ".local").exists()) == ("", bool(here))
