"""Starts and ends a real S3 server, Ceph's gateway, with ``shared/s3/ceph-rgw-up``."""

import os
import subprocess
from pathlib import Path

CEPH_SCRIPT = Path(__file__).resolve().parents[2].parent / "shared" / "s3" / "ceph-rgw-up"


def start_ceph(folder: Path) -> dict[str, str]:
    """Start a gateway with its data in a folder. Returns its AWS variables, and raises RuntimeError."""
    done = _script("up", "0", folder)
    if done.returncode:  # its second port, PORT + 1, was taken meanwhile, or a busy machine let its monitor starve
        wipe_ceph(folder)
        done = _script("up", "0", folder)
    if done.returncode:
        raise RuntimeError(f"Ceph does not start here: {done.stderr.strip()[-300:]}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def wipe_ceph(folder: Path) -> None:
    """End the gateway of a folder, and remove its data."""
    _script("wipe", folder)


def _script(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    settings = {**os.environ, "UP_TIMEOUT": "45"}
    command = [CEPH_SCRIPT, *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=500, check=False)
