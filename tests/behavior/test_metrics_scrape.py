"""Metrics as Prometheus sees them: a Ray with its agent, a driver that emits, the text of the HTTP endpoint."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PROJECT

SECONDS = 300.0  # for a Ray that starts beside others, and its agent
RUN = 's3://bucket/"labels" of mine'
# emits two units, then the state again and again, as a run does, until its input is closed
DRIVER = f"""
import sys, threading
import ray
from m2f_batch.flow.watch.metrics import Metrics
port = int(sys.argv[1])
ray.init(
    address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=port,
    _system_config={{"metrics_report_interval_ms": 500}},  # in place of 10 s
)
metrics = Metrics({RUN!r})
unit = {{"transient": None, "seconds": [("fetch", 1.5), ("forward", 4.0)], "bytes": 5000, "retries": 3, "replica": "a",
        "ok": 30, "error": 2, "segments": 77, "reasons": [("decode/Truncated", 1), ("fetch/NotFound", 1)]}}
metrics.add(unit)
metrics.add(unit | {{"ok": 32, "error": 0, "reasons": [], "retries": 0}})
metrics.add(dict.fromkeys(unit) | {{"transient": "503 SlowDown", "retries": 1}})
closed = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), closed.set())).start()
while True:
    metrics.set_state(936, {{"fetch": 0.25, "forward": 0.875}}, 2, deaths=1)
    metrics.set_times(0.0, 1795273500.0, 1795273600.0)
    metrics.set_nodes_lost(3)
    metrics.succeeded(at=1795273445.0)
    if closed.wait(0.3):
        break
ray.shutdown()
"""
EXPECTED = {
    ("images_total", "ok"): 62.0,
    ("images_total", "error"): 2.0,
    ("errors_total", "decode/Truncated"): 1.0,
    ("errors_total", "fetch/NotFound"): 1.0,
    ("segments_total", ""): 154.0,
    ("units_total", "committed"): 2.0,
    ("units_total", "transient"): 1.0,
    ("stage_seconds_total", "fetch"): 3.0,
    ("stage_seconds_total", "forward"): 8.0,
    ("bytes_read_total", ""): 10000.0,
    ("retries_total", ""): 4.0,
    ("unit_deaths_total", ""): 1.0,
    ("nodes_lost_total", ""): 3.0,
    ("waiting_seconds", ""): 0.0,
    ("eta_timestamp_seconds", ""): 1795273500.0,
    ("deadline_timestamp_seconds", ""): 1795273600.0,
    ("images_remaining", ""): 936.0,
    ("busy_ratio", "fetch"): 0.25,
    ("busy_ratio", "forward"): 0.875,
    ("replicas", ""): 2.0,
    ("last_success_timestamp_seconds", ""): 1795273445.0,
}


@dataclass
class Endpoint:
    """Where metrics are told, and whether the driver that emits them still runs."""

    url: str
    is_fed: Callable[[], bool]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """The URL of the metrics of a Ray in which a driver emits."""
    from ray._private.utils import get_dashboard_dependency_error

    missing = get_dashboard_dependency_error()
    if missing is not None:
        pytest.skip(f"Ray's agent, which exports metrics, is not installed: ray[default] brings it ({missing})")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="m2f-")  # short: Ray puts sockets below it
    own = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (Path(folder) / "said").open("w+") as said:
        command = [sys.executable, "-c", DRIVER, str(port)]
        driver = subprocess.Popen(
            command, env=os.environ | own, cwd=PROJECT, stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        try:
            yield Endpoint(f"http://127.0.0.1:{port}/metrics", lambda: driver.poll() is None)
            assert driver.poll() is None, Path(said.name).read_text()
        finally:
            driver.stdin.close()
            try:
                driver.wait(60)
            finally:
                driver.kill()
                shutil.rmtree(folder, ignore_errors=True)


def scraped(url: str) -> str:
    """What the endpoint says; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def ours(text: str) -> dict[tuple[str, str], float]:
    """Value by (short name, the label beside run) of this run, read as Prometheus' text format defines it."""
    found = {}
    for name, labels, value in re.findall(r"^ray_m2f_batch_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = {key: re.sub(r"\\(.)", r"\1", text) for key, text in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)}
        if tags["run"] == RUN:
            key = name, next((tags[key] for key in ("status", "reason", "stage") if key in tags), "")
            assert key not in found, f"two series for {key}"
            found[key] = float(value)
    return found


def test_what_the_driver_emits_can_be_scraped(endpoint):
    text, until = "", time.monotonic() + SECONDS
    while ours(text) != EXPECTED and endpoint.is_fed() and time.monotonic() < until:
        time.sleep(0.3)
        text = scraped(endpoint.url)
    assert ours(text) == EXPECTED
    kinds = dict(re.findall(r"^# TYPE ray_m2f_batch_(\w+) (\w+)$", text, re.MULTILINE))
    assert kinds == {name: "counter" if name.endswith("_total") else "gauge" for name, _ in EXPECTED}
