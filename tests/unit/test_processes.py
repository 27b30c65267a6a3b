"""Maps that work some items ahead: in order, bounded, and ended by the first error."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from m2f_batch.processes import _submitted, ahead, in_threads


def test_no_more_is_begun_than_was_asked_for():
    begun: list[int] = []

    def submit(item: int) -> int:
        begun.append(item)
        return -item

    pairs = ahead(submit, iter(range(6)), 3)
    assert begun == []
    assert next(pairs) == (0, 0) and begun == [0, 1, 2, 3], "three go on while the caller works on the first"
    assert next(pairs) == (1, -1) and begun == [0, 1, 2, 3, 4]
    assert [*pairs] == [(2, -2), (3, -3), (4, -4), (5, -5)] and begun == [*range(6)]
    assert [*ahead(submit, [], 3)] == []


def test_results_of_threads_come_in_order():
    def slower_at_first(item: int) -> int:
        time.sleep(0.02 * (4 - item % 5))
        return item * item

    assert [*in_threads(slower_at_first, range(20), 5, 10)] == [(item, item * item) for item in range(20)]


@pytest.mark.parametrize("waits", [True, False])
def test_an_error_comes_at_its_turn_and_drops_what_was_not_begun(waits):
    begun, ended, go_on = [], [], threading.Event()

    def act(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("one")
        if item > 1:
            go_on.wait(10 if not waits else 0.05)
        ended.append(item)
        return item

    pairs = in_threads(act, range(100), 2, 50, waits=waits)
    assert next(pairs) == (0, 0)
    with pytest.raises(ValueError, match="one"):
        next(pairs)
    assert len(begun) < 6
    assert ([*sorted(begun)] == [*sorted([*ended, 1])]) is waits, "those under way are waited for, or not"
    go_on.set()


def test_the_script_of_a_caller_with_threads_comes_back():
    """It is hidden while processes may start. A second thread must not take the stand-in for it."""
    script, go_on = sys.modules["__main__"], threading.Event()
    entered = {"first": threading.Event(), "second": threading.Event()}

    class Pool:
        def submit(self, act: object, item: str) -> str:
            entered[item].set()
            assert sys.modules["__main__"] is not script and (item == "second" or go_on.wait(60))
            return item

    threads = [threading.Thread(target=_submitted, args=(Pool(), abs, [item])) for item in entered]
    threads[0].start()
    assert entered["first"].wait(60)
    threads[1].start()
    assert not entered["second"].wait(0.1)
    go_on.set()
    for thread in threads:
        thread.join()
    assert entered["second"].is_set() and sys.modules["__main__"] is script


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once(tmp_path: Path):
    """As somebody writes who calls the package at the top of a file. It costs three interpreters."""
    script = tmp_path / "mine.py"
    lines = [
        "from m2f_batch.processes import in_processes",
        "print('mine')",
        "print(sorted(in_processes(abs, range(-5, 0), 2)))",
        "import __main__; print(__main__.__file__ == __file__)",
    ]
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["mine", "[1, 2, 3, 4, 5]", "True"], done.stderr
