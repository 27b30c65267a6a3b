"""How a command connects to Ray, and what it says where that fails."""

import logging
import os
import socket

import pytest

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.processes import FOR_START, PASSIVE
from m2f_batch.ray_session.session import QUIET, connected


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_one_message_at_once(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(UsageError, match=rf"compute\.address: nobody answers at {scheme}127\.0\.0\.1:{port}"),
        connected(ComputeConfig(address=f"{scheme}127.0.0.1:{port}")),
    ):
        pass


def test_the_address_of_a_jobs_api_is_refused_before_ray_is_asked(monkeypatch):
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("asked"))
    said = r"compute\.address: 'http://head:8265' is a Jobs API, which m2f-batch submit takes; give HOST:6379 "
    with pytest.raises(UsageError, match=said), connected(ComputeConfig(address="http://head:8265")):
        pass


@pytest.mark.parametrize(
    ("address", "said"), [("http://head:8265", "is a Jobs API, which"), ("127.0.0.1:1", "nobody answers at")]
)
def test_an_address_that_the_shell_exports_is_named_as_that(address, said, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("asked"))
    said = rf"^RAY_ADDRESS: .*{said}.*; unset it for a local Ray, or give --address HOST:6379 of the head$"
    with pytest.raises(UsageError, match=said), connected(ComputeConfig()):
        pass


def test_a_local_ray_gets_time_to_start_on_a_busy_machine(monkeypatch):
    seen = {}

    def init(**options):
        seen.update({name: os.environ.get(name) for name in FOR_START | PASSIVE}, address=options["address"])

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in FOR_START | PASSIVE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with connected(ComputeConfig()):
        assert not (FOR_START | PASSIVE).keys() & os.environ.keys()
    assert seen == {"address": "local", "RAY_raylet_start_wait_time_s": "180", "OMP_WAIT_POLICY": "PASSIVE"}


def test_a_local_ray_that_does_not_start_is_one_line(monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RunError) as caught, connected(ComputeConfig()):
        pass
    assert str(caught.value) == (
        "Ray does not start on this machine: The current node timed out during startup.; it was given 180 s; "
        "free CPUs, memory and the disk of RAY_TMPDIR or /tmp, and give the same command again"
    )


def test_a_bug_in_starting_ray_stays_a_bug(monkeypatch):
    def init(**_):
        raise KeyError("no such key")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(KeyError), connected(ComputeConfig()):
        pass


@pytest.mark.parametrize("is_open", [True, False])
def test_what_the_caller_has_set_is_as_it_was(is_open, monkeypatch):
    from ray.data import DataContext

    def state():
        context = DataContext.get_current()
        levels = [logging.getLogger(name).level for name in ("ray", "ray.data")]
        return id(context), context.max_errored_blocks, levels, {*os.environ} & {*QUIET}

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    began = []
    monkeypatch.setattr("ray.init", lambda **_: began.append("init"))
    monkeypatch.setattr("ray.shutdown", lambda: began.append("shutdown"))
    monkeypatch.setattr("ray.is_initialized", lambda: is_open)
    before = state()
    with pytest.raises(KeyboardInterrupt), connected(ComputeConfig()):
        DataContext.get_current().max_errored_blocks = 77
        assert logging.getLogger("ray.data").level == logging.CRITICAL and {*QUIET} <= {*os.environ}
        raise KeyboardInterrupt
    assert state() == before and before[1] != 77
    assert began == ([] if is_open else ["init", "shutdown"])
