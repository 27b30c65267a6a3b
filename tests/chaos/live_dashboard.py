"""A live run as Prometheus and the dashboard see it: every panel's queries return data, and become a picture.

    PYTHONPATH=tests .venv/bin/python tests/chaos/live_dashboard.py docs/pictures/dashboard.png

A Ray with a token, Prometheus (Debian's package) with infra/prometheus/machines.yml and its alerts, and one run from a
bucket whose proxy injects faults, in which an actor is killed; then the same command with nothing to do. The picture of
six panels is drawn from Prometheus' answers, for Grafana is in no package index that a test can rely on.
"""

import argparse
import json
import math
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import victims
from drivers import Drivers, environment_of, segment_arguments
from lab import MODEL
from storages import Bucket, free_port, images, s3_server, wait_for_port
from support.debian import program
from support.fault_proxy import FaultProxy
from unit_hook import Hook

PROJECT = Path(__file__).resolve().parents[2]
IMAGES, SECONDS_PER_IMAGE = 160, 0.5
STEP_SECONDS = 5
AFTER_SECONDS = 25  # until the last scrape
LONGEST_SECONDS = 600
FAULTS = [{"pattern": "*scene 0077.png", "status": 503, "code": "SlowDown", "methods": ["GET"], "times": 60}]

# the panels of the picture, in its order
SHOWN = (
    *("Images per second, by status", "Backlog, by run", "Busy, by stage", "Seconds per image, by stage"),
    *("Replicas", "What was done again or lost, per minute"),
)
NEVER_HERE = "ray_m2f_batch_nodes_lost_total"  # the one node is not lost
KILLED = "units whose process died"  # the legend of what the kill must be seen in
Series = tuple[str, list[tuple[float, float]]]  # what it is called, and (seconds, value)


class Panel(NamedTuple):
    """A panel of the dashboard: its title, Grafana's word for its unit, and its queries with their legends."""

    title: str
    unit: str
    queries: list[tuple[str, str]]


@contextmanager
def ray(folder: Path, variables: dict[str, str], port: int) -> Iterator[str]:
    """A Ray of one node that exports metrics on ``port``; yields its address."""
    gcs = free_port()
    ports = [f"--port={gcs}", f"--metrics-export-port={port}", f"--dashboard-port={free_port()}"]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    started = subprocess.Popen(
        [*command, "--num-cpus=3", *ports],
        env=environment_of(variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, started)
        yield f"127.0.0.1:{gcs}"
    finally:
        victims.kill_all(folder)
        started.kill()
        started.wait()


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """Prometheus with our configuration; yields its URL."""
    shutil.copytree(PROJECT / "infra" / "prometheus", folder / "config")
    alerts = folder / "config" / "alerts-machines.yml"
    alerts.write_text(alerts.read_text().replace('run="s3://my-bucket/labels"', 'run=~".+"'))
    (folder / "config" / "machines.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{target}"]}]))
    port = free_port()
    places = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    started = subprocess.Popen(
        [program("prometheus", "prometheus"), f"--config.file={folder / 'config' / 'machines.yml'}", *places],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "prometheus.log").open("wb"),
    )
    try:
        wait_for_port(port, started)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait()


def asked(url: str, path: str, **query: str | float) -> Any:
    """What Prometheus' API answers."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)["data"]


def panels() -> list[Panel]:
    """The panels that ask for something, over all runs."""
    dashboard = json.loads((PROJECT / "infra" / "grafana" / "dashboard.json").read_text())
    return [
        Panel(
            panel["title"],
            panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short"),
            [(target["expr"].replace("$run", ".*"), target.get("legendFormat", "")) for target in panel["targets"]],
        )
        for panel in dashboard["panels"]
        if panel.get("targets")
    ]


def values_of(url: str, query: str, legend: str, begin: float, end: float) -> list[Series]:
    """Each series of a query: what Grafana would call it, and (seconds since ``begin``, value)."""
    answer = asked(url, "query_range", query=query, start=begin, end=end, step=STEP_SECONDS)["result"]
    found = []
    for series in answer:
        name = legend.replace("{{run}}", "").strip()
        for label, value in series["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", value)
        points = [(at - begin, float(value)) for at, value in series["values"] if math.isfinite(float(value))]
        if points:
            found.append((name, points))
    return found


def most(series: list[Series]) -> float:
    """The largest value of all series, 0 where there is none."""
    return max((value for _, points in series for _, value in points), default=0.0)


def with_breaks(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Break a line where Prometheus had nothing to tell."""
    whole: list[tuple[float, float]] = []
    for at, value in points:
        if whole and at - whole[-1][0] > 1.5 * STEP_SECONDS:
            whole.append((at, math.nan))
        whole.append((at, value))
    return whole


def happen(folder: Path, target: int, place: ExitStack) -> None:
    """The runs: to the end in spite of all faults, then once more with nothing to do."""
    server = place.enter_context(s3_server("moto", folder))
    bucket = Bucket(server, images(IMAGES))
    proxy = place.enter_context(FaultProxy(server["AWS_ENDPOINT_URL"], rate=0.02, kinds=["slow-down", "reset"]))
    proxy.set(rules=FAULTS)
    hook = Hook(folder / "hook")
    hook.begin(SECONDS_PER_IMAGE)
    rays = folder / "r"
    rays.mkdir()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": str(rays)}
    variables = {**bucket.variables, "AWS_ENDPOINT_URL": proxy.url, **hook.variables, **token}
    address = place.enter_context(ray(rays, variables, target))
    arguments = segment_arguments(
        bucket.source,
        bucket.at("labels"),
        MODEL,
        {"compute.actors": "2", "run.images_per_unit": "4", "input.max_error_fraction": "0.5", "run.deadline": "2h"},
        address,
    )
    drivers = place.enter_context(Drivers(environment_of(variables), folder / "run.log"))
    is_killed = False
    for _ in range(4):
        driver = drivers.start(arguments)
        while not driver.is_over():
            if not is_killed and len(hook.lines()) > 10:
                victims.by_role(rays, "actor")[0].signal(signal.SIGKILL)
                is_killed = True
            time.sleep(0.5)
        if driver.exit["code"] == 0:
            break
    again = drivers.start(arguments)
    codes = driver.exit["code"], again.process.wait(LONGEST_SECONDS)
    if codes != (0, 0):
        raise RuntimeError(f"exit codes {codes}: {drivers.log()}")
    print(drivers.log())


def draw(answers: list[tuple[Panel, list[Series]]], file: Path) -> None:
    """Draw the six panels of ``SHOWN``, as large as a page can show them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    chosen = [(panel, series) for title in SHOWN for panel, series in answers if panel.title == title]
    for axis, (panel, series) in zip(figure.subplots(3, 2).flat, chosen, strict=True):
        axis.set_title(panel.title, fontsize=11, loc="left")
        for name, points in series:
            axis.plot(*zip(*with_breaks(points), strict=True), label=name or None, marker=".", markersize=3)
        if any(name for name, _ in series):
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        if panel.unit == "percentunit":
            axis.yaxis.set_major_formatter("{x:.0%}")
        axis.set_ylim(bottom=0)
        axis.set_ylabel({"s": "seconds", "percentunit": ""}.get(panel.unit, panel.title.partition(",")[0].lower()))
        axis.set_xlabel("seconds")
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=100)


def main() -> int:
    """Run, ask, draw; 1 when a query has no data or an alert fires."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    folder = Path(tempfile.mkdtemp(prefix="d-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        target = free_port()
        url = stack.enter_context(prometheus(folder, target))
        begin = time.time()
        happen(folder, target, stack)
        time.sleep(AFTER_SECONDS)
        end = time.time()
        answers = []
        missing = []
        for panel in panels():
            series = [values_of(url, query, legend, begin, end) for query, legend in panel.queries]
            missing += [
                f"{panel.title}: {query}"
                for (query, legend), found in zip(panel.queries, series, strict=True)
                if NEVER_HERE not in query and not (most(found) if legend == KILLED else found)
            ]
            answers.append((panel, [one for found in series for one in found]))
        firing = [
            alert["labels"]["alertname"] for alert in asked(url, "alerts")["alerts"] if alert["state"] == "firing"
        ]
    draw(answers, picture)
    print(f"{len(answers)} panels, {sum(len(panel.queries) for panel in panels())} queries; without data: {missing}")
    print(f"alerts that fire: {firing}")
    return int(bool(missing or firing))


if __name__ == "__main__":
    sys.exit(main())
