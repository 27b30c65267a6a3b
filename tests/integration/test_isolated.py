"""Images in a child process that may die of one: what becomes a row, what is passing, and what is a bug."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support import poison_workers

from m2f_batch.errors import ImageError, RunError, TransientError
from m2f_batch.flow.crashes.isolated import LIMITS, MAX_DEATHS, prepare_isolated
from m2f_batch.flow.crashes.isolated_child import Child, Died
from m2f_batch.records import ImageRef

CRASHES = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP]


@pytest.fixture
def acts(tmp_path):
    """``acts(*uris)``: the outcome of each; ``limits`` and the stage that they end in may be given, one or one each."""

    def prepare(*uris: str, stage: str = "decode", stages: tuple[str, ...] = (), **options):
        refs = [ImageRef(uri, each) for uri, each in zip(uris, stages or [stage] * len(uris), strict=True)]
        return prepare_isolated(refs, plan=tmp_path, cut=None, max_pixels=1, worker=poison_workers.acting, **options)

    return prepare


def tries(folder: Path, uri: str) -> list[int]:
    """The processes that tried an item, in their order."""
    return [int(pid) for pid in (folder / f"tries of {uri}").read_text().split()]


def said(outcome: object) -> tuple[str, str, str]:
    assert isinstance(outcome, ImageError), outcome
    assert "\n" not in outcome.message
    return outcome.stage, outcome.reason, outcome.message


def has_ended(pid: int) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_one_process_handles_many_images_and_ends(acts, tmp_path):
    outcomes = acts("ok 1", "bad", "noisy", "ok 2")
    (pid,) = {pid for uri in ("ok 1", "bad", "noisy", "ok 2") for pid in tries(tmp_path, uri)}
    assert pid != os.getpid()
    assert [outcomes[0], outcomes[3]] == [f"ok 1 by {pid}", f"ok 2 by {pid}"]
    assert said(outcomes[1]) == ("decode", "Corrupt", "bad")
    assert has_ended(pid)


def test_nothing_to_do_starts_nothing(acts, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert acts() == []


@pytest.mark.parametrize("number", CRASHES, ids=lambda number: number.name)
def test_a_crash_is_a_row_after_three(acts, tmp_path, number):
    poison = f"kill {number:d}"
    before, outcome, after = acts("ok 1", poison, "ok 2")
    assert said(outcome) == ("decode", "Crashed", f"the process died of {number.name} while decoding it")
    tried = tries(tmp_path, poison)
    assert len(set(tried)) == len(tried) == MAX_DEATHS, "each time in a process of its own"
    assert before == f"ok 1 by {tried[0]}"
    assert after.startswith("ok 2 by ")
    assert int(after.split()[-1]) not in tried


def test_other_ends(acts, tmp_path):
    outcomes = acts("kill 9", "exit 7", "exit 0", "ok 1", "kill 11")
    assert list(map(said, outcomes[:3])) == [
        ("decode", "Killed", "the process was killed (SIGKILL) while decoding it, as it is when memory runs out"),
        ("decode", "Crashed", "the process ended with exit code 7 while decoding it"),
        ("decode", "Crashed", "the process ended with exit code 0 while decoding it"),
    ]
    assert outcomes[3].startswith("ok 1")
    assert said(outcomes[4])[1] == "Crashed"


def test_the_stage_that_it_died_in_is_named(acts):
    outcomes = acts("kill 11", "kill 9", stage="fetch")
    assert [said(outcome)[::2] for outcome in outcomes] == [
        ("fetch", "the process died of SIGSEGV while fetching it"),
        ("fetch", "the process was killed (SIGKILL) while fetching it, as it is when memory runs out"),
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_two_deaths_are_no_row(acts, tmp_path, number):
    (outcome,) = acts(f"kill {number:d} twice")
    assert outcome.startswith("kill")
    assert len(tries(tmp_path, f"kill {number:d} twice")) == 3


def test_kills_from_outside_do_not_change_the_row_of_a_crash(acts, tmp_path):
    undisturbed, disturbed = acts("kills 11 11 11", "kills 9 11 15 11 9 15 11")
    assert said(disturbed) == said(undisturbed)
    assert len(tries(tmp_path, "kills 9 11 15 11 9 15 11")) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_no_image_stops_a_process_by_such_a_signal(acts, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process ignores the signal, as under nohup, and so do its children")
    with pytest.raises(TransientError, match=f"died of {number.name} while decoding"):
        acts("ok 1", f"kill {number:d}")


def test_a_hang_is_ended(acts, tmp_path):
    # only what hangs has a short limit, for anything else may take long on a loaded machine
    outcome, other = acts("hang", "ok 1", stages=("decode", "fetch"), limits={**LIMITS, "decode": 1.5})
    assert said(outcome) == ("decode", "TimedOut", "no result after 1.5 s of decoding it")
    assert other.startswith("ok 1")
    assert len(set(tries(tmp_path, "hang"))) == 3
    assert all(has_ended(pid) for pid in tries(tmp_path, "hang"))
    with pytest.raises(TransientError, match="no result in time while fetching"):  # storage's fault, not the image's
        acts("hang", stage="fetch", limits={**LIMITS, "fetch": 0.5})


def test_a_death_is_seen_while_another_process_holds_the_pipe(acts):
    assert said(acts("orphan")[0])[2] == "the process died of SIGSEGV while decoding it"


@pytest.mark.parametrize(
    "uri, kind, match", [("transient", TransientError, "^s3: SlowDown$"), ("lost", RunError, "^s3: no bucket$")]
)
def test_our_own_errors_come_as_themselves(acts, uri, kind, match):
    with pytest.raises(kind, match=match) as raised:
        acts("ok 1", uri, "ok 2")
    assert type(raised.value) is kind
    assert not hasattr(raised.value, "__notes__")


@pytest.mark.parametrize(
    "uri, kind, message, line",
    [
        ("bug", ZeroDivisionError, "no number", 'raise ZeroDivisionError("no number")'),
        ("unpicklable", RuntimeError, "Unpicklable: three", "raise Unpicklable(1, 2)"),
        ("lambda", Exception, "lambda", "pickle"),
    ],
)
def test_a_bug_is_raised_with_its_traceback(acts, tmp_path, uri, kind, message, line):
    with pytest.raises(kind, match=message) as raised:
        acts("ok 1", uri)
    (note,) = raised.value.__notes__
    assert note.startswith("in a child process:\nTraceback")
    assert line in note
    assert has_ended(*tries(tmp_path, uri))


@pytest.mark.parametrize(
    "how, kind, match",
    [
        (signal.SIGSEGV, RunError, "died of SIGSEGV before it had an image$"),
        ("exit", RunError, r"ended with exit code 1 before it had an image: libfoo\.so: not found$"),
        ("raise", RunError, r"^model\.uri: does not load$"),
        (signal.SIGKILL, TransientError, r"was killed \(SIGKILL\) before it had an image$"),
        (signal.SIGTERM, TransientError, "died of SIGTERM before it had an image$"),
    ],
)
def test_a_process_that_does_not_start_is_no_row(how, kind, match):
    with pytest.raises(kind, match=match):
        prepare_isolated(
            [ImageRef("a", "1")],
            plan=how,
            cut=None,
            max_pixels=1,
            worker=poison_workers.dying_at_start,
            limits=LIMITS,
        )


def test_killed_between_images(tmp_path):
    first, second = ImageRef("ok 1", "decode"), ImageRef("ok 2", "decode")
    with closing(Child(partial(poison_workers.acting, tmp_path, 1), LIMITS)) as child:
        child.ask(first, "fetch")
        old = child.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        os.waitid(os.P_PID, old, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Died) as died:
            child.ask(second, "fetch")
        assert (died.value.stage, died.value.returncode) == (None, -signal.SIGKILL), "no image was in work"
        assert child.pid is None
        assert child.ask(second, "fetch") != f"ok 2 by {old}"
    assert tries(tmp_path, "ok 2") != [old]


def test_killed_from_outside_during_an_image(acts, tmp_path):
    """One kill -9 of the process that works on ``hang``; its second try is killed by nobody, and the limit ends it."""
    log = tmp_path / "tries of hang"

    def kill() -> None:
        until = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(tries(tmp_path, "hang")[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    (outcome,) = acts("hang", limits={**LIMITS, "decode": 3.0})
    killer.join()
    assert said(outcome)[1] == "TimedOut"
    assert len(tries(tmp_path, "hang")) == 1 + MAX_DEATHS, "the kill is not counted with the others"


def test_it_dies_with_its_parent(tmp_path):
    code = f"""
from support import poison_workers
from m2f_batch.flow.crashes.isolated import prepare_isolated
from m2f_batch.records import ImageRef
prepare_isolated(
    [ImageRef("hang", "decode")], plan={str(tmp_path)!r}, cut=None, max_pixels=1, worker=poison_workers.acting
)
"""
    search = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log = tmp_path / "tries of hang"
    with subprocess.Popen([sys.executable, "-c", code], env=search) as parent:
        until = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < until:
            time.sleep(0.05)
        parent.kill()
    assert has_ended(*tries(tmp_path, "hang"))


def test_two_threads_have_two_children(acts):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as callers:
        one, other = callers.map(lambda name: acts("ok " + name, "kill 11 twice", "bad"), "ab")
    assert one[0].split()[-1] != other[0].split()[-1]
    assert said(one[2]) == said(other[2])


def test_importing_it_loads_no_torch_and_no_ray():
    code = (
        "import sys, m2f_batch.flow.crashes.isolated, m2f_batch.flow.crashes.deaths; assert not {'torch', 'ray'} "
        "& sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
