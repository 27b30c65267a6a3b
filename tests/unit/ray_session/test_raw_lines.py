"""Ray's own lines: printed by Ray's own functions, and found in the log instead of on the terminal."""

import logging
from types import SimpleNamespace

import pytest
from ray._private import worker as ray_worker

from m2f_batch.ray_session.raw_lines import NAME, raw_lines_in_log

DIED = "A worker died or was killed while executing a task by an unexpected system error.\nWorker ID: 17"
SPILLED = ":info_message:Spilled 2048 MiB, 5 objects, write throughput 99 MiB/s."
SCALED = ":event_summary:Adding 2 node(s) of type worker."


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """The log folder of a session on this machine."""
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr(ray_worker.global_worker, "node", node, raising=False)
    return tmp_path


def printed(pid: str, line: str, *, is_err: bool) -> None:
    ray_worker.print_to_stdstream({"lines": [line], "pid": pid, "is_err": is_err}, ignore_prefix=False)


def all_kinds() -> None:
    """A dead worker, full memory, a cluster that grows, and a logger's line."""
    printed("raylet", DIED, is_err=False)
    printed("raylet", SPILLED, is_err=True)
    printed("autoscaler", SCALED, is_err=True)
    logging.getLogger("ray.autoscaler").error("no node can hold this")


def test_none_reaches_the_terminal_and_all_are_in_the_log(logs, capfd):
    with raw_lines_in_log():
        all_kinds()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    kept = (logs / NAME).read_text()
    for text in ("(raylet) A worker died", "Worker ID: 17", "Spilled 2048 MiB", "Adding 2 node(s)", "no node can hold"):
        assert text in kept, text
    assert "\x1b" not in kept and "ERROR ray.autoscaler" in kept


def test_afterwards_ray_prints_again(logs, capfd):
    before = logging.getLogger("ray").handlers
    with raw_lines_in_log():
        pass
    assert logging.getLogger("ray").handlers is before
    printed("raylet", "the disk is almost full", is_err=True)  # new: Ray leaves out what it printed before
    assert "the disk is almost full" in capfd.readouterr().err, "what the tests above look at is what Ray prints"


def test_a_log_that_cannot_be_written_costs_nothing_but_the_lines(logs, capfd):
    (logs / NAME).mkdir()
    with raw_lines_in_log():
        all_kinds()
    assert capfd.readouterr() == ("", "")


def test_a_cluster_without_a_session_here(monkeypatch, capfd):
    monkeypatch.setattr(ray_worker.global_worker, "node", None, raising=False)
    with raw_lines_in_log():
        all_kinds()
    assert capfd.readouterr() == ("", "")
