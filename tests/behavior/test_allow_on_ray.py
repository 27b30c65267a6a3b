"""The allow-list of a job holds in Ray's workers, beside the one that a worker's machine has."""

import json
import os
import subprocess
import sys

from conftest import DEMO_MODEL, PROJECT

from m2f_batch.storage.allow import OF_MACHINE


def test_a_run_reads_what_is_listed_only(tmp_path, scenes):
    """Rows of a run on a Ray of its own: ok inside both lists, NotAllowed outside one.

    The Ray that other tests share was started before there was a list.
    """
    import pyarrow.parquet as pq

    inside = sorted(scenes.glob("*.png"))[0]
    outside, of_the_job_only = tmp_path / "outside.png", tmp_path / "job" / "only.png"
    (tmp_path / "run").mkdir()
    (tmp_path / "job").mkdir()
    for other in (outside, of_the_job_only):
        other.write_bytes(inside.read_bytes())
    manifest = tmp_path / "run" / "list.txt"
    manifest.write_text(f"{inside}\n{outside}\n{of_the_job_only}\nhdfs://169.254.169.254/latest/meta-data/\n")
    of_machine = [str(scenes), str(tmp_path / "run"), str(DEMO_MODEL)]
    allow = json.dumps([*of_machine, str(tmp_path / "job")])
    command = ["segment", str(manifest), str(tmp_path / "run/out"), "--model", str(DEMO_MODEL), "--task", "panoptic"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", *command, "--set", f"storage.allow={allow}"],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=PROJECT,
        env=environment | {OF_MACHINE: ",".join(of_machine)},
    )
    assert done.returncode == 3, done.stderr  # three of four failed
    rows = {row["uri"]: row["error"] for row in pq.read_table(tmp_path / "run/out/annotations").to_pylist()}
    assert rows[str(inside)] is None
    for uri in (str(outside), str(of_the_job_only), "hdfs://169.254.169.254/latest/meta-data/"):
        assert rows[uri] == {"stage": "fetch", "type": "NotAllowed", "message": f"{uri}: lies outside the allow-list"}
    assert json.loads((tmp_path / "run/out/run.json").read_text())["config"]["storage"]["allow"] == json.loads(allow)
