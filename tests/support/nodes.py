"""Ray nodes with network addresses of their own on one machine: each in a network namespace, all on one bridge.

    sudo .venv/bin/python tests/support/nodes.py

starts a head, which does no work, and three workers, with a token; prints what to export in another terminal, and takes
everything down at Ctrl-C. Needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2; nothing of it outlives it.
"""

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from support.ray_start import OF_TESTS

from m2f_batch.processes import PASSIVE, START_SECONDS

WORKERS = ("a", "b", "c")
GCS_PORT, JOBS_PORT = 6379, 8265
UP_SECONDS = START_SECONDS
OBJECT_STORE_BYTES = 120 << 20
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_worker_prestart": "0",  # processes that nobody asked for
    "HF_HUB_OFFLINE": "1",
    **OF_TESTS,
    **PASSIVE,
}


_NUMBERS = itertools.count(os.getpid())  # one process may have two of them at a time


class NoNamespaces(RuntimeError):
    """This machine does not let us make network namespaces; says why."""


class Nodes:
    """A Ray cluster of a head and ``WORKERS``. A context manager; raises NoNamespaces where it cannot be had.

    ``host`` is this machine's own address on the bridge: what listens there is reached from all nodes. ``variables``
    are the environment of all Ray processes, beside our own.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, cpus: int = 1) -> None:
        number = next(_NUMBERS) % 250 + 1
        self._name, self._cpus = f"m2f{number}", cpus
        self._net = f"198.18.{number}"  # of the network for tests between machines (RFC 2544)
        self.host = f"{self._net}.1"
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # sockets' paths are at most 107 long
        self.token_file = self.folder / "token"
        # jobs run the python that their node finds
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        own = {"RAY_AUTH_TOKEN_PATH": str(self.token_file), "PATH": path}
        self.variables = {**SETTINGS, **own, **(variables or {})}
        self._ray = self.folder / "ray"
        self._ray.mkdir()
        self._spaces: list[str] = []
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def jobs_address(self) -> str:
        """Of the Jobs API, on the head."""
        return f"http://{self._address('head')}:{JOBS_PORT}"

    def __enter__(self) -> "Nodes":
        self.token_file.touch(0o600)
        self.token_file.write_text(secrets.token_hex(32))
        try:
            self._connect()
            self._start("head", ["--head", f"--port={GCS_PORT}", "--num-cpus=0", "--dashboard-host=0.0.0.0"])
            self._wait_for(1)
            for name in WORKERS:
                self._start(name, [f"--address={self._address('head')}:{GCS_PORT}", f"--num-cpus={self._cpus}"])
            self._wait_for(1 + len(WORKERS))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pids(self, name: str) -> list[int]:
        """The processes of one node."""
        return [int(pid) for pid in _ip("netns", "pids", self._space(name)).split()]

    def titles(self, name: str) -> list[str]:
        """What the processes of one node call themselves."""
        found = []
        for pid in self.pids(name):
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to all processes of one node, which is gone for good then."""
        while pids := self.pids(name):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def end(self, name: str) -> "subprocess.Popen[bytes]":
        """SIGTERM to ``ray start --block`` of one node, which is returned: so Kubernetes takes a pod away."""
        process = self._started[("head", *WORKERS).index(name)]
        process.send_signal(signal.SIGTERM)
        return process

    def alive(self) -> int:
        """Nodes that the head counts as alive; 0 while it does not answer."""
        header = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        request = urllib.request.Request(f"{self.jobs_address}/nodes?view=summary", headers=header)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def close(self) -> None:
        """Kill all processes, and remove namespaces, bridge and files."""
        for space in self._spaces:
            self.kill(space.removeprefix(f"{self._name}-"))
            with suppress(RuntimeError):
                _ip("netns", "del", space)
        for process in self._started:
            process.kill()
            process.wait()
        self._spaces, self._started = [], []
        with suppress(RuntimeError):
            _ip("link", "del", self._name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _space(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _address(self, name: str) -> str:
        return f"{self._net}.{10 + ('head', *WORKERS).index(name)}"

    def _connect(self) -> None:
        """A bridge, and for each node a namespace with one end of a cable in it."""
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for name in ("head", *WORKERS):
            space, cable = self._space(name), f"{self._name}{name}"
            _ip("netns", "add", space)
            self._spaces.append(space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", self._name, "up")
            _ip("-n", space, "addr", "add", f"{self._address(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def _start(self, name: str, options: Sequence[str]) -> None:
        # Ray's files are below a folder that each node sees as its own
        own = self.folder / name
        own.mkdir()
        alone = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', own, self._ray]
        ray = Path(sys.executable).with_name("ray")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
        always = ["--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        always.append(f"--node-ip-address={self._address(name)}")
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._space(name), *alone, ray, "start", *options, *always],
                env=kept | self.variables | {"RAY_TMPDIR": str(self._ray)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)

    def _wait_for(self, count: int) -> None:
        end = time.monotonic() + UP_SECONDS
        while self.alive() < count:
            if time.monotonic() > end:
                said = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
                raise TimeoutError(f"{count} Ray nodes are not up after {UP_SECONDS} s\n{said}")
            time.sleep(0.5)


def _ip(*arguments: str) -> str:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        raise NoNamespaces("there is no ip (Debian: iproute2)") from None
    if done.returncode:
        kind = NoNamespaces if "not permitted" in done.stderr or "not supported" in done.stderr else RuntimeError
        raise kind(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Up, what to export, and down at Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt), Nodes({k: v for k, v in os.environ.items() if k.startswith("AWS_")}) as nodes:
        print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={nodes.token_file}")
        print(f"# Jobs API {nodes.jobs_address}; this machine is {nodes.host} for the nodes", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
