"""Measures the head of a cluster that has nothing to do: memory and CPU of its processes.

    python -m benchmarks.scale.idle_head [--quick] [--minutes 5]

``ray start --head`` as the head of infra/ has it: no work on it, the dashboard, and an autoscaler that has no machines
to start. Sampled after two minutes for the start.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config

from benchmarks.lib.processes import cpu_seconds, descendants, private_mib
from benchmarks.lib.ray_folder import free_port
from benchmarks.lib.timing import PROJECT, parser, publish, say, table

START_SECONDS = 120
EVERY_SECONDS = 5
# by what a process' command line holds, the first that fits
KINDS = {
    r"/gcs_server": "GCS",
    r"/raylet/raylet": "raylet",
    r"/monitor\.py": "autoscaler",
    r"dashboard/agent\.py|DashboardAgent": "agent of the node",
    r"runtime_env/agent|RuntimeEnvAgent": "agent of environments",
    r"log_monitor": "log monitor",
    r"dashboard": "dashboard, which takes jobs",
    r"util\.client\.server": "server of Ray's client",
    r"resource_tracker": "helpers",
}
NOTE = """MiB is the most that processes share with none (RssAnon), CPU what they took of one core on average, both
without the command `ray start` itself. What a pod is charged for is more by the files that it has read, which the
kernel gives back where memory is short."""
CLUSTER = {  # as infra/ray/machines.yaml, with no machine to start
    "cluster_name": "idle",
    "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},
    "auth": {"ssh_user": "nobody"},
}


def kind_of(pid: int) -> str:
    """Name the kind of a process of the head."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((kind for mark, kind in KINDS.items() if re.search(mark, command)), "other")


def measure(minutes: float, start_seconds: float, scratch: Path) -> list[dict[str, str]]:
    """Lines of the table, the sum last."""
    (scratch / "cluster.yaml").write_text(yaml.safe_dump(prepare_config(CLUSTER)))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0"]
    command += [f"--port={free_port()}", f"--dashboard-port={free_port()}", f"--metrics-export-port={free_port()}"]
    command += [f"--ray-client-server-port={free_port()}", f"--temp-dir={scratch}/ray"]
    command += [f"--autoscaling-config={scratch}/cluster.yaml"]
    environment = os.environ | {
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
    }
    log = (scratch / "log").open("w")
    head = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, env=environment)
    try:
        time.sleep(start_seconds)
        assert head.poll() is None, (scratch / "log").read_text()[-4000:]
        return _sampled(head.pid, minutes * 60)
    finally:
        head.terminate()  # it ends its children
        with suppress(subprocess.TimeoutExpired):
            head.wait(30)
        head.kill()


def _sampled(pid: int, seconds: float) -> list[dict[str, str]]:
    peaks: dict[str, float] = defaultdict(float)
    processes: dict[str, set[int]] = defaultdict(set)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    began = time.monotonic()
    highest = 0.0
    while time.monotonic() - began < seconds:
        now: dict[str, float] = defaultdict(float)
        for each in descendants(pid)[1:]:
            with suppress(OSError, ValueError, IndexError):
                kind = kind_of(each)
                now[kind] += private_mib(each)
                processes[kind].add(each)
                last[each] = cpu_seconds(each)
                first.setdefault(each, last[each])
        peaks |= {kind: max(mib, peaks[kind]) for kind, mib in now.items()}
        highest = max(highest, sum(now.values()))
        time.sleep(EVERY_SECONDS)
    took = time.monotonic() - began
    used = {kind: sum(last[each] - first[each] for each in pids) / took for kind, pids in processes.items()}
    lines = [
        {
            "processes": kind,
            "number": str(len(processes[kind])),
            "MiB": f"{peaks[kind]:.0f}",
            "CPU": f"{used[kind]:.1%}",
        }
        for kind in sorted(peaks, key=peaks.__getitem__, reverse=True)
    ]
    number = sum(map(len, processes.values()))
    return [
        *lines,
        {"processes": "all", "number": str(number), "MiB": f"{highest:.0f}", "CPU": f"{sum(used.values()):.1%}"},
    ]


def main() -> int:
    """Measure, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=5.0, help="of sampling")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        say(f"some {2 + chosen.minutes:g} minutes")
        lines = measure(0.2 if chosen.quick else chosen.minutes, 20 if chosen.quick else START_SECONDS, Path(scratch))
    publish("idle_head", "A head that has nothing to do", [table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
