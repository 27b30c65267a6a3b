"""Recipes of infra/schedulers in the schedulers' own packages: `make test-tools`, an environment for each.

The command is this checkout's own, in .venv, at a stand-in for a cluster whose job ends with a chosen exit code.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))  # the schedulers' own environments do not have the package

from m2f_batch.result import FINAL as FINAL  # noqa: E402 the path comes first; recipes leave these exit codes alone

SCHEDULERS = PROJECT / "infra" / "schedulers"
BIN = PROJECT / ".venv" / "bin"
EXIT_CODES = (0, 1, 2, 3, 130)


class Cluster:
    """A stand-in whose jobs end with ``exit_code``, and where the commands of this process find it."""

    def __init__(self, exit_code: int) -> None:
        command = [BIN / "python", PROJECT / "tests" / "tools" / "cluster.py", str(exit_code)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def submitted(self) -> list[str]:
        """End it; returns the ids under which jobs were submitted."""
        said, _ = self.process.communicate(timeout=60)
        return json.loads(said)


@pytest.fixture(params=EXIT_CODES)
def ending(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An exit code, and a stand-in whose jobs end with it."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-token")
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(PROJECT)
    cluster = Cluster(request.param)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", cluster.url)
    yield request.param, cluster
    if cluster.process.returncode is None:
        cluster.submitted()


def recipe(name: str) -> ModuleType:
    """A recipe of infra/schedulers, imported anew."""
    spec = importlib.util.spec_from_file_location(name, SCHEDULERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_as_in_the_pod(command: Sequence[str], cluster: Cluster, folder: Path) -> tuple[int, dict[str, Any]]:
    """Run a recipe's command with what its pod would mount in ``folder``; returns its exit code and its result."""
    at = {"--address": cluster.url, "--config": str(PROJECT / "jobs" / "nightly.yaml")}
    at["--result"] = str(folder / "result.json")
    words = [at.get(before, word) for before, word in zip(["", *command[:-1]], command, strict=True)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    result = json.loads((folder / "result.json").read_text())
    assert result["exit_code"] == done.returncode, done.stderr
    return done.returncode, result


def check_told(exit_code: int, result: dict[str, Any]) -> None:
    """What every result holds, whichever scheduler has it."""
    assert (result["command"], result["exit_code"], result["output"]) == ("submit", exit_code, "s3://my-bucket/labels")
    assert result["retry"] == (exit_code not in FINAL)
    assert (result["run_id"], result["totals"]["images"]["ok"]) == ("abc", 3)
    assert result["error"] == (f"it is {exit_code}" if exit_code else None)
