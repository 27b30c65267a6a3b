"""What workers tell the command, and that what only workers need is loaded by them alone."""

import subprocess
import sys

import pytest
from conftest import PROJECT

from m2f_batch.errors import RunError
from m2f_batch.train.workers.ledger import IN_ALL, STARTS, Ledger

NODES = ("a", "b")


def test_lines_are_told_once():
    ledger = Ledger()
    ledger.say("model   new")
    ledger.say("resume  step 3 of 9")
    assert ledger.take() == ["model   new", "resume  step 3 of 9"]
    assert ledger.take() == []


def test_workers_start_anew_as_long_as_there_is_progress():
    ledger = Ledger()
    for step in range(3 * STARTS):
        ledger.begin(step // STARTS, NODES)
        ledger.fail("OSError: gone")
        assert ledger.why_over() is None
    ledger.begin(2, NODES)
    over = ledger.why_over()
    assert isinstance(over, RunError)
    assert str(over) == "workers die again and again after step 2, the last time of OSError: gone"


def test_a_death_is_one_line_in_our_words():
    gloo = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:2: reset"
    killed = "again   a worker died (killed from outside, or out of memory); all go on from step 3"
    for reasons, expected in (
        ([], killed),
        ([gloo], killed),
        (
            [gloo, "OSError: no space left", gloo],
            "again   a worker died (OSError: no space left); all go on from step 3",
        ),
    ):
        ledger = Ledger()
        ledger.begin(0, NODES)
        assert ledger.take() == [], "nothing is said of the first start"
        for reason in reasons:
            ledger.fail(reason)
        ledger.begin(3, NODES)
        assert ledger.take() == [expected]
        ledger.begin(3, ("a", "b", "c"))
        assert ledger.take() == ["again   there are more workers now; all go on from step 3"]
        ledger.begin(4, ("a",))
        assert ledger.take() == [killed.replace("step 3", "step 4")], "an old reason is no reason"


def test_nodes_that_come_and_go_are_no_failure_of_the_workers():
    """Preemptions, or an elastic number of workers, between two checkpoints."""
    ledger = Ledger()
    for start in range(IN_ALL):
        ledger.begin(7, ["a", f"b{start}"][: 1 + start % 2])
        if start % 2 == 0 and start // 2 >= STARTS:
            break
        assert ledger.why_over() is None, start
    assert "after step 7" in str(ledger.why_over()), "the same node alone, again and again"
    ledger = Ledger()
    for start in range(IN_ALL):
        ledger.begin(7, [f"a{start}"])
        assert ledger.why_over() is None, start
    ledger.begin(7, ["z"])
    assert "killed from outside, or out of memory" in str(ledger.why_over())


def test_the_order_of_workers_on_nodes_does_not_matter():
    ledger = Ledger()
    for nodes in (["a", "b"], ["b", "a"]) * STARTS:
        ledger.begin(0, nodes)
    assert ledger.why_over() is not None


def test_the_first_reason_stands():
    ledger = Ledger()
    ledger.end(RunError("first"))
    ledger.end(RunError("second"))
    assert str(ledger.why_over()) == "first"


@pytest.mark.parametrize(("module", "heavy"), [("ledger", ("torch", "ray")), ("ray_train", ("transformers", "scipy"))])
@pytest.mark.slow
def test_the_command_and_rays_own_actors_load_no_more_than_they_need(module, heavy):
    code = f"import sys, m2f_batch.train.workers.{module}; assert not {set(heavy)!r} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_a_stop_is_done_when_the_workers_are():
    ledger = Ledger()
    assert not ledger.is_stopping()
    assert not ledger.stop() and ledger.is_stopping()
    ledger.end(RunError("stopped"))
    assert ledger.stop()
