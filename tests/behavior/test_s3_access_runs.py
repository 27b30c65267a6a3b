"""Case S3-e through a whole run, on a Ray of its own, whose workers begin with the bucket's settings."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL, PROJECT
from support.engines import config_of, in_process, rows_of
from support.s3_gates import Gate, images
from support.s3_servers import S3Endpoint

from m2f_batch.cli import main
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify


def said(arguments: list[str]) -> str:
    """What a command says that ends well, in a process of its own: the Ray of the tests knows of no buckets."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "m2f_batch.cli", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd=PROJECT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    return done.stdout


def masks_by_name(output: str | Path) -> dict[str, Any]:
    """What was found in each image, by the image's file name."""
    return {
        row["uri"].rpartition("/")[2]: (row["status"], row["height"], row["width"], row["segments"])
        for row in rows_of(output)
    }


def test_a_run_from_a_public_bucket_into_one_of_ones_own(
    gate: Gate,
    moto_s3: S3Endpoint,
    off_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Keys and settings reach Ray's workers; OUTPUT is written with keys; another setting goes on with the same run.

    INPUT is a manifest, which names a key with '//' (case S3-b). The workers load the model from the bucket, too.
    """
    own = f"{moto_s3.bucket}-own"
    moto_s3.client().create_bucket(Bucket=own)
    gate.public, gate.paid = {moto_s3.bucket}, {own}
    moto_s3.put({f"models/demo/{path.name}": path.read_bytes() for path in DEMO_MODEL.iterdir()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = ["addressing_style=virtual", "request_payer=requester", f"anonymous=[{moto_s3.bucket}]"]
    given = [word for setting in settings for word in ("--set", f"storage.s3.{setting}")]
    base = [
        "segment",
        f"{moto_s3.uri}/lists/all.txt",
        f"s3://{own}/run",
        "--model",
        f"{moto_s3.uri}/models/demo",
        "--task",
        "panoptic",
    ]
    assert "3 in = 3 ok + 0 error" in said([*base, *given, "--set", "compute.actors=1"])
    gate.paid = set()
    assert main([*base, *given[:2], *given[4:]]) == 0
    assert "nothing to do" in capsys.readouterr().out, "another payer is no part of the fingerprint"
    assert verify(open_directory(f"s3://{own}/run"), "panoptic") == []
    (tmp_path / "disk").mkdir()
    for key, data in images().items():
        (tmp_path / "disk" / Path(key).name).write_bytes(data)
    (tmp_path / "disk" / "dbl.png").write_bytes(images()["in/1.png"])
    assert in_process(config_of(tmp_path / "disk", tmp_path / "plain", DEMO_MODEL)) == 0
    assert masks_by_name(f"s3://{own}/run") == masks_by_name(tmp_path / "plain")
    image = f"{moto_s3.uri}/other//dbl.png"
    assert main(["explain", f"s3://{own}/run", image, str(tmp_path / "why")]) == 0, "run.json says how to ask"
