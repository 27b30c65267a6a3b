"""The command under test, given again and again: each driver a process in a session of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import victims
from support.ray_start import OF_TESTS

LEASE_SECONDS = 6
HELD = 2  # the exit code of a command whose OUTPUT another run holds
STOPPED = 130
STOP_SECONDS = 90  # after SIGTERM or SIGINT: three times what is promised, on a machine that does other work too


@dataclass
class Driver:
    """One process of the command; ``ended_by`` is what was done to it (a signal, a lost cluster), if anything."""

    process: "subprocess.Popen[bytes]"
    began: float
    ended_by: str = ""
    signalled: float = 0.0
    wake_at: float | None = None
    exit: dict[str, Any] = field(default_factory=dict)

    def is_over(self) -> bool:
        """Whether it has ended; then ``exit`` says how."""
        code = self.process.poll()
        if code is not None and not self.exit:
            now = time.monotonic()
            self.exit = {"code": code, "seconds": round(now - self.began, 1), "ended_by": self.ended_by}
            if self.signalled:
                self.exit["seconds_to_stop"] = round(now - self.signalled, 1)
        return code is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                self.ended_by, self.signalled = number.name, time.monotonic()

    def sleep(self, seconds: float) -> None:
        """SIGSTOP; ``wake`` it when so many seconds are over."""
        self.signal(signal.SIGSTOP)
        self.wake_at = time.monotonic() + seconds

    def wake(self, *, now: bool = False) -> None:
        """SIGCONT, once it has slept long enough or ``now``."""
        if self.wake_at is not None and (now or time.monotonic() >= self.wake_at):
            self.signal(signal.SIGCONT)
            self.wake_at = None

    def end(self) -> None:
        """SIGKILL to it and to all that it started in its session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self.process.wait()


class Drivers:
    """All drivers of one run; ``current`` is the last one started. A context manager that ends them all."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = dict(environment), log
        self.all: list[Driver] = []

    def __enter__(self) -> "Drivers":
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self.all:
            driver.end()

    @property
    def current(self) -> Driver:
        return self.all[-1]

    @property
    def exits(self) -> list[dict[str, Any]]:
        """How each one ended, in the order of their starts."""
        return [driver.exit for driver in self.all if driver.is_over()]

    def start(self, arguments: Sequence[str]) -> Driver:
        """Give the command once more."""
        with open(self._log, "ab") as log:
            log.write(f"--- {' '.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "m2f_batch.cli", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=victims.die_with_parent,
            )
        self.all.append(Driver(process, time.monotonic()))
        return self.current

    def log(self) -> str:
        """All that they said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Our environment without AWS and Ray settings, with those of the tests and ``variables``.

    Without Ray's, because a Ray that another test has started here leaves RAY_AUTH_MODE=token behind.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return {
        **kept,
        **OF_TESTS,
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        **variables,
    }


def segment_arguments(
    source: str, output: str, model: str, settings: Mapping[str, str], address: str = ""
) -> list[str]:
    """The segment command, with a short lease."""
    fixed = {
        "input.max_error_fraction": "1",
        "compute.threads_per_actor": "1",
        "compute.device": "cpu",
        "run.lease_seconds": str(LEASE_SECONDS),
    }
    pairs = [part for key, value in {**fixed, **settings}.items() for part in ("--set", f"{key}={value}")]
    where = ["--address", address] if address else []
    return ["segment", source, output, "--model", model, "--task", "panoptic", *where, *pairs]


def run_command(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Exit code and output of another command."""
    command = [sys.executable, "-m", "m2f_batch.cli", *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    return done.returncode, done.stdout
