"""Programs of Debian's packages that tests use: as installed, or unpacked below ``.tools``; nothing is installed."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import PROJECT

UNPACKED = PROJECT / ".tools" / "debian"


@functools.cache
def program(name: str, package: str) -> str:
    """The path of a program; skips where the package cannot be had."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED / package / "usr/bin")]))
    if found is None:
        _unpack(package)
        found = shutil.which(name, path=UNPACKED / package / "usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package}), and its package cannot be had here")
    return found


def _unpack(package: str) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return
    with tempfile.TemporaryDirectory() as folder:
        if not _runs("apt-get", "download", package, cwd=folder):
            _runs("apt-get", "update", cwd=folder)  # a machine that has never asked, where we may
            _runs("apt-get", "download", package, cwd=folder)
        UNPACKED.mkdir(parents=True, exist_ok=True)
        for file in Path(folder).glob(f"{package}_*.deb"):
            _runs("dpkg-deb", "--extract", str(file), str(UNPACKED / package), cwd=folder)


def _runs(*command: str, cwd: str) -> bool:
    return not subprocess.run(command, cwd=cwd, capture_output=True, timeout=300, check=False).returncode
