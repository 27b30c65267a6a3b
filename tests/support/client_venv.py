"""m2f-batch-client as its users have it: built from this checkout and installed in an environment of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TOOLS = PROJECT / ".tools"
LOCKED = ("--constraints", str(PROJECT / "requirements.lock"), "--verify-hashes")


@dataclass(frozen=True)
class Client:
    """An environment that holds what ``wheel`` brings, and nothing else."""

    folder: Path
    wheel: Path

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def run(self, *arguments: str, seconds: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        """``m2f-batch`` of this environment, with nothing of ours in its variables."""
        command = [str(self.folder / "bin/m2f-batch"), *arguments]
        return _run(command, {"PATH": os.defpath, **environment}, seconds, self.folder)

    def python(self, code: str) -> object:
        """What a script of this environment's Python prints, as JSON."""
        done = _run([str(self.folder / "bin/python"), "-c", code], {"PATH": os.defpath}, 240, self.folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def build(folder: Path, source: Path) -> Path:
    """The wheel that is made of the source distribution of a project."""
    if not (TOOLS / "uv").is_dir():
        pytest.skip("there is no uv in .tools: make brings it")
    options = ("--no-build-isolation", "--python", sys.executable)
    uv("build", *options, "--out-dir", str(folder / "dist"), str(source))
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def install(folder: Path, *extras: str) -> Client:
    """Build the client, and install it with the locked packages that it asks for."""
    wheel = build(folder, PROJECT / "infra/client")
    client = Client(folder / "client", wheel)
    uv("venv", "--python", sys.executable, str(client.folder))
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    uv("pip", "install", "--python", str(client.folder), *LOCKED, wanted)
    return client


def uv(*arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    done = _run([sys.executable, "-m", "uv", "--quiet", *arguments], environment, 400, PROJECT)
    assert done.returncode == 0, done.stderr


def _run(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """One for all tests of a session, without extras."""
    return install(tmp_path_factory.mktemp("client"))
