"""The wheel, as the index will have it: what it holds and says, and that it runs where nothing else is installed."""

import os
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from conftest import LONG, PROJECT
from support.client_venv import LOCKED, build, uv

from m2f_batch.version import VERSION


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), PROJECT)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_it_says_what_it_is(wheel: Path):
    said, project = metadata(wheel), tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert (said["Name"], said["Version"], said["License-Expression"]) == ("m2f-batch", VERSION, "MIT")
    assert said.get_all("Classifier") == project["classifiers"] and "Typing :: Typed" in project["classifiers"]
    assert said.get_all("Project-URL") == [f"{name}, {address}" for name, address in project["urls"].items()]
    assert sorted(said.get_all("Provides-Extra") or ()) == sorted(project["optional-dependencies"])
    assert said["Requires-Python"] == ">=3.11" and said.get_payload()


@pytest.mark.slow
def test_it_holds_what_runs_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (scripts,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert {"m2f_batch/py.typed", "m2f_batch/cli.py", "m2f_batch/demo/model/model.safetensors"} <= names
    assert {name.partition("/")[0] for name in names} == {"m2f_batch", f"m2f_batch-{VERSION}.dist-info"}
    assert "m2f-batch = m2f_batch.cli:main" in scripts


def test_a_citation_names_this_version():
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"], cited["license"]) == ("m2f_batch", VERSION, "MIT")


@LONG
@pytest.mark.timeout(1200)
def test_it_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path):
    """Half a minute with the locked packages in uv's cache, and minutes and 6 GB from the index."""
    uv("venv", "--python", sys.executable, str(tmp_path / "env"))
    uv("pip", "install", "--python", str(tmp_path / "env"), *LOCKED, str(wheel))
    command = str(tmp_path / "env/bin/m2f-batch")
    variables = {"PATH": os.defpath, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [command, *words], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"m2f-batch {VERSION}\n"
    assert "25 in = 24 ok + 1 error" in run("demo")
    assert "verified; finished" in run("verify", "demo-run")
    assert (tmp_path / "demo-run" / "contact-sheet.png").stat().st_size > 100_000
