"""Case S3-e through a whole run, on a Ray of its own, whose workers begin with the bucket's settings.

So they do with the job's allow-list, beside the one that their machine has.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
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
from m2f_batch.storage.allow import OF_MACHINE


def said(arguments: list[str], variables: dict[str, str]) -> str:
    """What a command says that ends well, in a process of its own: the Ray of the tests knows of no buckets."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
    command = [sys.executable, "-m", "m2f_batch.cli", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=580, cwd=PROJECT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    return done.stdout


def masks_by_name(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What was found in each image, by the image's file name."""
    return {
        row["uri"].rpartition("/")[2]: (row["status"], row["height"], row["width"], row["segments"]) for row in rows
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

    INPUT is a manifest, which names a key with '//' (case S3-b). The workers load the model from the bucket, too. What
    lies outside the allow-list of the job, or that of the machine, is an error of fetching, and nobody asks for it.
    """
    own = f"{moto_s3.bucket}-own"
    moto_s3.client().create_bucket(Bucket=own)
    gate.public, gate.paid = {moto_s3.bucket}, {own}
    moto_s3.put({f"models/demo/{path.name}": path.read_bytes() for path in DEMO_MODEL.iterdir()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outside = [f"{moto_s3.uri}/{key}" for key in ("outside/1.png", "job/only.png")]
    moto_s3.put({uri.removeprefix(f"{moto_s3.uri}/"): images()["in/1.png"] for uri in outside})
    outside.append("hdfs://169.254.169.254/latest/meta-data/")
    listed = [f"{moto_s3.uri}/{key}" for key in images()] + [f"{moto_s3.uri}/other//dbl.png"]
    moto_s3.put({"lists/all.txt": "\n".join(listed + outside).encode()})
    of_machine = [*(f"{moto_s3.uri}/{folder}/" for folder in ("in", "other", "lists", "models")), f"s3://{own}"]
    allow = [*of_machine, f"{moto_s3.uri}/job/"]
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
        *("--set", f"storage.allow={json.dumps(allow)}", "--set", "input.max_error_fraction=1"),
    ]
    words = said([*base, *given, "--set", "compute.actors=1"], {OF_MACHINE: ",".join(of_machine)})
    assert "6 in = 3 ok + 3 error" in words
    assert not [seen for seen in gate.seen if "outside/" in seen.target]
    gate.paid = set()
    with monkeypatch.context() as patch:
        patch.setenv(OF_MACHINE, ",".join(of_machine))
        assert main([*base, *given[:2], *given[4:]]) == 0
    assert "nothing to do" in capsys.readouterr().out, "another payer is no part of the fingerprint"
    assert verify(open_directory(f"s3://{own}/run"), "panoptic") == []
    (tmp_path / "disk").mkdir()
    for key, data in images().items():
        (tmp_path / "disk" / Path(key).name).write_bytes(data)
    (tmp_path / "disk" / "dbl.png").write_bytes(images()["in/1.png"])
    assert in_process(config_of(tmp_path / "disk", tmp_path / "plain", DEMO_MODEL)) == 0
    rows = {row["uri"]: row for row in rows_of(f"s3://{own}/run")}
    for uri in outside:
        message = f"{uri}: lies outside the allow-list"
        assert rows.pop(uri)["error"] == {"stage": "fetch", "type": "NotAllowed", "message": message}
    assert masks_by_name(rows.values()) == masks_by_name(rows_of(tmp_path / "plain"))
    told = open_directory(f"s3://{own}/run").read_info()
    assert told["config"]["storage"]["allow"] == allow
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in json.dumps(told)
    image = f"{moto_s3.uri}/other//dbl.png"
    assert main(["explain", f"s3://{own}/run", image, str(tmp_path / "why")]) == 0, "run.json says how to ask"
