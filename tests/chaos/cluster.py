"""A Ray cluster of three nodes on this machine, in a process of its own that is told what to do on its standard input.

The head node has no CPUs, so that all work is on nodes that may be killed. Whoever started the cluster may kill any of
its processes; ``Cluster.heal`` brings it back to full strength. All processes die with the one that started them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivers import environment_of
from victims import kill_all

WORKERS = 2  # nodes beside the head
CPUS = 2  # of each
UP_SECONDS, COMMAND_SECONDS = 240, 120
OBJECT_STORE_BYTES = 120 << 20
SETTINGS = {
    "RAY_enable_worker_prestart": "0",  # processes that nobody asked for
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


class ClusterDied(Exception):
    """The process that holds the cluster is gone, or does not answer."""


class Cluster:
    """The handle of a running cluster; ``variables`` are the environment of its processes beside our own.

    ``folder`` is Ray's temporary directory, by which its processes are known. A context manager.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.variables = dict(variables or {})
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # sockets' paths are at most 107 long
        self.address = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until all nodes are there. Raises ClusterDied."""
        environment = environment_of({**SETTINGS, **self.variables, "RAY_TMPDIR": str(self.folder)})
        with open(self.folder / "cluster.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(os.getpid())],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.address = self._answer(UP_SECONDS)["address"]

    def ask(self, do: str) -> dict[str, Any]:
        """The answer to one command: status or add. Raises ClusterDied."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ClusterDied(f"{do}: {error}") from error
        return self._answer(COMMAND_SECONDS)

    def heal(self) -> int:
        """Bring it back to all its nodes, from nothing if need be; returns how many nodes were started."""
        try:
            missing = WORKERS - self.ask("status")["workers"]
        except ClusterDied:
            self.stop()
            self.start()
            return WORKERS + 1
        for _ in range(missing):
            self.ask("add")
        return missing

    def stop(self) -> None:
        """Kill every process of it."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        kill_all(self.folder)
        if self._process is not None:
            self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        """Stop it, and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        watch = threading.Timer(seconds, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise ClusterDied((self.folder / "cluster.log").read_text()[-2000:] or "no answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClusterDied(answer["error"])
        return answer


def serve(parent: int) -> None:
    """Be the cluster: start it, say so on standard output, then do what standard input says until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray and its children print
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()

    def answer(**words: Any) -> None:
        answers.write(json.dumps(words) + "\n")
        answers.flush()

    from m2f_batch.ray_session.bytecode import kept_bytecode

    with kept_bytecode():  # its workers import torch
        from ray.cluster_utils import Cluster as RayCluster

        cluster = RayCluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **_node()})
        for _ in range(WORKERS):
            cluster.add_node(num_cpus=CPUS, **_node())
        answer(address=cluster.address)
        for line in sys.stdin:
            try:
                if json.loads(line)["do"] == "add":
                    cluster.add_node(num_cpus=CPUS, **_node())
                for node in [node for node in cluster.worker_nodes if not node.remaining_processes_alive()]:
                    cluster.worker_nodes.discard(node)
                head = cluster.head_node is not None and cluster.head_node.remaining_processes_alive()
                answer(workers=len(cluster.worker_nodes)) if head else answer(error="the head node is dead")
            except Exception as error:  # noqa: BLE001  said to the one who asked
                answer(error=f"{type(error).__name__}: {error}")


def _node() -> dict[str, Any]:
    return {"object_store_memory": OBJECT_STORE_BYTES}


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    folder = Path(os.environ["RAY_TMPDIR"])
    kill_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
