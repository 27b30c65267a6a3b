"""The allow-list of a job holds in Ray's workers, beside the one that a worker's machine has."""

import json
import os
import subprocess
import sys

from conftest import DEMO_MODEL, PROJECT

from m2f_batch.storage.allow import OF_MACHINE

ASK = """
import json, os, sys
import ray
from m2f_batch.config.segment import ComputeConfig
from m2f_batch.ray_session.session import connected
from m2f_batch.storage import allow

with allow.confine(["/data", "s3://b/images/"], {}), connected(ComputeConfig()):
    @ray.remote(num_cpus=1)
    def asked(machine):
        if machine:
            os.environ[allow.OF_MACHINE] = machine
        return [allow.is_allowed(uri) for uri in ("/data/x", "/etc/x", "s3://b/images/x", "s3://b/x", "s3://c/x")]
    answers = [ray.get(asked.remote(machine)) for machine in (None, "s3://b")]
print(json.dumps(answers))
"""


def test_workers_keep_to_the_lists_of_the_job_and_of_their_machine():
    # a Ray of its own: the one that other tests share was started before there was a list
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", OF_MACHINE)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, timeout=240, cwd=PROJECT, env=environment
    )
    assert done.returncode == 0, done.stderr
    by_job, by_both = json.loads(done.stdout)
    assert by_job == [True, False, True, False, False]
    assert by_both == [False, False, True, False, False]


def test_a_run_reads_what_is_listed_only(tmp_path, scenes):
    """Rows of a run on a local Ray: ok inside, NotAllowed outside."""
    import pyarrow.parquet as pq

    inside, outside = sorted(scenes.glob("*.png"))[0], tmp_path / "outside.png"
    outside.write_bytes(inside.read_bytes())
    (tmp_path / "run").mkdir()
    manifest = tmp_path / "run" / "list.txt"
    manifest.write_text(f"{inside}\n{outside}\nhdfs://169.254.169.254/latest/meta-data/\n")
    allow = json.dumps([str(scenes), str(tmp_path / "run"), str(DEMO_MODEL)])
    command = ["segment", str(manifest), str(tmp_path / "run/out"), "--model", str(DEMO_MODEL), "--task", "panoptic"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", OF_MACHINE)}
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *command, "--set", f"storage.allow={allow}"],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=PROJECT,
        env=environment,
    )
    assert done.returncode == 3, done.stderr  # two of three failed
    rows = {row["uri"]: row["error"] for row in pq.read_table(tmp_path / "run/out/annotations").to_pylist()}
    assert rows[str(inside)] is None
    for uri in (str(outside), "hdfs://169.254.169.254/latest/meta-data/"):
        assert rows[uri] == {"stage": "fetch", "type": "NotAllowed", "message": f"{uri}: lies outside the allow-list"}
    assert json.loads((tmp_path / "run/out/run.json").read_text())["config"]["storage"]["allow"] == json.loads(allow)
