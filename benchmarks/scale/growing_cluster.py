"""A Ray cluster on this machine whose nodes come when they are asked for, and go when they are idle.

Ray's own autoscaler decides, and its fake provider starts each node as a raylet beside the head. Nodes are given
resources that this machine does not have: who works on them sleeps. No other Ray on this machine is touched.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.lib.ray_folder import free_port, kill_all
from benchmarks.lib.timing import PROJECT

UP_SECONDS = 300
OBJECT_STORE_BYTES = 120 << 20
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # the id that the fake provider gives to its head
SETTINGS = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_FAKE_CLUSTER": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_autoscaler_v2": "1",  # as KubeRay and Ray's cluster launcher set it
    "RAY_enable_worker_prestart": "0",  # processes that nobody asked for
    "RAY_health_check_failure_threshold": "100",  # a raylet that answers late on a loaded machine is not dead
    "RAY_health_check_timeout_ms": "60000",
    "RAY_raylet_start_wait_time_s": str(UP_SECONDS),
    "OMP_WAIT_POLICY": "PASSIVE",
}
# Ports of a node: the option of ray start, and the file in which an agent tells it to its raylet. A raylet that has
# waited for that for 15 s takes itself down, and importing takes longer on a machine that does other work too.
AGENTS = {
    "dashboard-agent-grpc-port": "metrics_agent_port",
    "dashboard-agent-listen-port": "dashboard_agent_listen_port",
    "metrics-export-port": "metrics_export_port",
    "runtime-env-agent-port": "runtime_env_agent_port",
}


class GrowingCluster:
    """A head with ``cpus``, and of each kind of nodes {name: (resources, most)} as many as the autoscaler asks for.

    ``idle_minutes``: after which a node goes. A context manager; raises TimeoutError when the head does not come up.
    """

    def __init__(
        self, kinds: Mapping[str, tuple[Mapping[str, float], int]], *, cpus: int = 0, idle_minutes: float = 5.0
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="grow-", dir="/tmp"))  # sockets' paths are at most 107 long
        self._kinds, self._cpus, self._idle_minutes = kinds, cpus, idle_minutes
        self.address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "GrowingCluster":
        (self.folder / "cluster.json").write_text(json.dumps(self._config()))
        port, store = self.address.rpartition(":")[2], f"--object-store-memory={OBJECT_STORE_BYTES}"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        ours.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process compiles what it imports
        ports = {name: free_port() for name in AGENTS}
        ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), ours.get("PYTHONPATH")]))
        with (self.folder / "cluster.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"),
                    *("--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={self._cpus}", "--num-gpus=0"),
                    *(store, "--include-dashboard=false", f"--autoscaling-config={self.folder / 'cluster.json'}"),
                    *(f"--{name}={port}" for name, port in ports.items()),
                ],
                env=ours | SETTINGS | {"RAY_TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(lambda: (self.folder / "ray" / "session_latest").exists())
            tell_ports(self.folder, HEAD, {AGENTS[name]: port for name, port in ports.items()})
            self._wait(lambda: b"Ray runtime started" in (self.folder / "cluster.log").read_bytes())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self) -> str:
        """Read the autoscaler's log."""
        return (self.folder / "ray" / "session_latest" / "logs" / "monitor.log").read_text(errors="replace")

    def close(self) -> None:
        """Kill all its processes, and remove its files."""
        kill_all(self.folder)
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self) -> dict[str, Any]:
        kinds = {
            name: {"resources": dict(resources), "node_config": {}, "min_workers": 0, "max_workers": most}
            for name, (resources, most) in self._kinds.items()
        }
        head = {"resources": {"CPU": self._cpus}, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "growing",
            "max_workers": sum(most for _, most in self._kinds.values()),
            "idle_timeout_minutes": self._idle_minutes,
            "provider": {
                "type": "external",
                "module": "benchmarks.scale.growing_provider.Provider",
                "disable_node_updaters": True,
                "gcs_address": self.address,
                "head_node_id": HEAD,
                "launch_multiple": True,
            },
            "available_node_types": {**kinds, "ray.head.default": head},
            "head_node_type": "ray.head.default",
            "auth": {},
            **{
                f"{part}_{when}": [] for part in ("head", "worker") for when in ("setup_commands", "start_ray_commands")
            },
            **{name: [] for name in ("setup_commands", "initialization_commands", "rsync_exclude", "rsync_filter")},
            **{name: {} for name in ("file_mounts", "docker")},
            "cluster_synced_files": [],
            "upscaling_speed": 1000,  # as on Kubernetes: all that are asked for at once
        }

    def _wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + UP_SECONDS
        while not is_so():
            if time.monotonic() > end or (self._process is not None and self._process.poll() is not None):
                said = (self.folder / "cluster.log").read_text(errors="replace")
                raise TimeoutError(f"no Ray at {self.address}\n{said[-2000:]}")
            time.sleep(0.1)


def tell_ports(folder: Path, node: str, ports: Mapping[str, int]) -> None:
    """Tell a node's raylet the ports of its agents, before it asks. ``folder`` is Ray's temporary directory."""
    for name, port in ports.items():
        (folder / "ray" / "session_latest" / f"{name}_{node}").write_text(str(port))
