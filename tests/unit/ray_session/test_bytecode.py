"""Workers keep compiled modules, where they would be lost, and nowhere else."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from m2f_batch.ray_session.bytecode import VARIABLES, kept_bytecode


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package in torch's place, not compiled, in an interpreter that writes compiled modules."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    spec = importlib.util.spec_from_file_location("torch", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return package


def environment() -> dict[str, str | None]:
    with kept_bytecode():
        return {name: os.environ.get(name) for name in VARIABLES}


def test_what_may_not_be_written_is_kept_in_the_cache(package, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    kept = {
        "PYTHONPYCACHEPREFIX": str(tmp_path / "cache" / "m2f-batch" / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": None,
    }
    assert environment() == kept
    assert {name: os.environ.get(name) for name in VARIABLES} == {
        "PYTHONPYCACHEPREFIX": None,
        "PYTHONDONTWRITEBYTECODE": "1",
    }, "the driver's own environment is as before"


def test_what_python_keeps_itself_is_left_alone(package, monkeypatch):
    assert environment() == dict.fromkeys(VARIABLES), "it can write beside the modules"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", "/mine")
    assert environment() == dict.fromkeys(VARIABLES), "the user has a place for them"
    monkeypatch.setattr(sys, "pycache_prefix", None)
    compiled = Path(importlib.util.cache_from_source(str(package / "__init__.py")))
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    assert environment() == dict.fromkeys(VARIABLES), "they are compiled already"
