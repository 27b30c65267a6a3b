"""Of many who want an OUTPUT one has it; who is dead loses it, and who was only thought dead writes nothing more."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT
from support.memory_store import MemoryStore

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.runs import lease as leases
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.lease import Lease, acquire, is_taken_over, newest, newest_token
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Fenced, Store


@pytest.fixture(params=["local", "moto", "ceph"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where leases are, on each kind of store."""
    place = str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_s3").uri
    return f"{place}/run/_state/lease"


def take(folder: str, seconds: float = 60, said: list[str] | None = None, store: Store | None = None) -> Lease:
    return acquire(store or open_store(folder), folder, seconds, ([] if said is None else said).append)


def put_other(folder: str, token: int = 1, seconds: float = 60, store: Store | None = None, **more: Any) -> None:
    """The lease of a process on another machine."""
    told = {
        **{"token": token, "nonce": f"n{token}", "holder": "process 7 on far", "machine": "far", "pid": 7},
        **{"started": "1", "since": "2026-11-21T10:00:00+00:00", "renewed_at": "", "renewals": 0},
        **{"seconds": seconds, "released": False, **more},
    }
    (store or open_store(folder)).write(f"{folder}/{token:09d}.json", json.dumps(told).encode())


def set_age(folder: str, token: int, seconds: float) -> None:
    """Of a lease on a disk."""
    os.utime(f"{folder}/{token:09d}.json", (time.time() - seconds,) * 2)


class Clock:
    """A clock that only sleeping moves; ``then`` happens in the first sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.sleeps = 1000.0, 0
        self.then: Any = lambda: None
        monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        if self.sleeps == 1:
            self.then()


def test_free_held_and_given_back(folder: str) -> None:
    said: list[str] = []
    first = take(folder, said=said)
    assert first.token == newest_token(open_store(folder), folder) == 1
    before = [*open_store(folder).list(folder)]
    with pytest.raises(UsageError) as refusal:
        take(folder, said=said)
    held = newest(open_store(folder), folder)
    assert held is not None
    assert f"process {os.getpid()} on " in str(refusal.value) and f"since {held.since}" in str(refusal.value)
    assert str(refusal.value).startswith(f"output.uri: {folder.removesuffix('/_state/lease')} is held")
    assert [*open_store(folder).list(folder)] == before, "nothing was written"
    first.renew()
    first.check()
    first.release()
    second = take(folder, said=said)
    assert second.token == 2 and said == []
    for act in (first.check, first.renew, first.release):
        with pytest.raises(Fenced, match=r"another run has taken .*/run over"):
            act()
    second.check()
    held = newest(open_store(folder), folder)
    assert held is not None and (held.token, held.released) == (2, False)


@pytest.mark.slow
def test_an_expired_one_is_taken_over_by_the_clock_of_the_store(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and the holder's may say anything."""
    put_other(folder, seconds=1, renewed_at="2099-01-01T00:00:00+00:00")
    until = time.monotonic() + 60
    while (open_store(folder).age(f"{folder}/000000001.json") or 0) <= 1 and time.monotonic() < until:
        time.sleep(0.2)
    monkeypatch.setattr("m2f_batch.storage.s3.store.datetime", None)  # not asked
    said: list[str] = []
    assert take(folder, said=said).token == 2 and said == []


def test_one_of_sixteen_racing_threads_has_it(folder: str) -> None:
    take(folder).release()
    start = threading.Barrier(16)

    def race(_: int) -> Lease | str:
        start.wait()
        try:
            return take(folder)
        except UsageError as refusal:
            return str(refusal)

    with ThreadPoolExecutor(16) as pool:
        results = [*pool.map(race, range(16))]
    winners = [result for result in results if isinstance(result, Lease)]
    assert [winner.token for winner in winners] == [2], results
    assert sum("is held by another run" in result for result in results if isinstance(result, str)) == 15


@pytest.mark.slow
def test_one_of_sixteen_racing_processes_has_it(tmp_path: Path) -> None:
    folder, fork = str(tmp_path), multiprocessing.get_context("fork")
    start, end, results = fork.Barrier(16), fork.Barrier(16), fork.SimpleQueue()

    def race() -> None:
        start.wait(30)
        try:
            results.put(take(folder).token)
        except UsageError:
            results.put(0)
        end.wait(30)  # a winner that ended would be dead, and not hold it any more

    racers = [fork.Process(target=race) for _ in range(16)]
    for racer in racers:
        racer.start()
    found = [results.get() for _ in racers]
    for racer in racers:
        racer.join(30)
    assert sorted(found) == [0] * 15 + [1]


def test_who_renews_while_we_wait_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock, said = str(tmp_path), Clock(monkeypatch), list[str]()
    put_other(folder)
    clock.then = lambda: put_other(folder, renewals=1)
    with pytest.raises(UsageError, match="process 7 on far, since 2026-11-21T10:00:00"):
        take(folder, said=said)
    assert said == ["waiting, at most 60 s, to see whether process 7 on far still works on OUTPUT"]
    assert newest_token(open_store(folder), folder) == 1


@pytest.mark.parametrize("renewals", [0, 1])
def test_a_clock_of_the_store_that_was_set_back_blocks_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renewals: int
) -> None:
    """Seen unchanged for its whole time by a clock of ours, it is over. We may be stopped ourselves while we wait."""
    folder, clock = str(tmp_path), Clock(monkeypatch)
    put_other(folder)
    set_age(folder, 1, -3600)

    def stopped() -> None:
        clock.now += 1000
        put_other(folder, renewals=renewals)
        set_age(folder, 1, -3600)

    clock.then = stopped
    if renewals:
        with pytest.raises(UsageError):
            take(folder)
    else:
        assert take(folder).token == 2
    clock.then, clock.sleeps = lambda: None, 0
    put_other(folder, token=5)
    set_age(folder, 5, -3600)
    began = clock.now
    assert take(folder).token == 6
    assert 60 < clock.now - began < 65


def test_a_lease_that_nobody_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = str(tmp_path), Clock(monkeypatch)
    for token, data in enumerate([b"", b"{}", b"[1]", b"\xff\x00", b'{"token": 4, "more": 1}'], 1):
        open_store(folder).write(f"{folder}/{token:09d}.json", data)
        clock.sleeps, clock.then = 0, lambda token=token: set_age(folder, token, 61)
        assert take(folder).token == token + 1
        assert clock.sleeps == 1, "it counted until it was a minute old"
        os.unlink(f"{folder}/{token + 1:09d}.json")
    open_store(folder).write(f"{folder}/notes.txt", b"not ours")
    assert newest_token(open_store(folder), folder) == 5


def test_old_ones_are_pruned_and_numbers_grow(tmp_path: Path) -> None:
    folder = str(tmp_path)
    tokens = []
    for _ in range(6):
        lease = take(folder)
        tokens.append(lease.token)
        lease.release()
    assert tokens == [1, 2, 3, 4, 5, 6]
    assert sorted(os.listdir(folder)) == [f"{token:09d}.json" for token in (4, 5, 6)]


CHILD = """
import sys
from m2f_batch.runs.lease import acquire
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Fenced
lease = acquire(open_store(sys.argv[1]), sys.argv[1], 30, print)
print("held", lease.token, flush=True)
for line in sys.stdin:
    try:
        lease.renew()
        print("renewed", flush=True)
    except Fenced:
        print("fenced", flush=True)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease of the folder, and renews it for each line that it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held 1\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=120)


def test_dead_living_and_stopped_processes(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    folder, said = str(tmp_path), list[str]()
    assert child.stdin is not None and child.stdout is not None
    with pytest.raises(UsageError, match=f"process {child.pid} on "):
        take(folder, said=said)
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(UsageError, match=f"process {child.pid} on "):  # stopped, but not for long yet
        take(folder, said=said)
    set_age(folder, 1, 31)
    second = take(folder, said=said)
    assert second.token == 2 and said == []
    os.kill(child.pid, signal.SIGCONT)
    child.stdin.write("renew\n")
    child.stdin.flush()
    assert child.stdout.readline() == "fenced\n"
    second.check()


def test_a_killed_process_is_followed_at_once(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie in the process table
    said: list[str] = []
    assert take(str(tmp_path), said=said).token == 2 and said == []


@pytest.mark.parametrize("case", ["machines without names", "hidden process", "same number, another process"])
def test_who_is_dead_here_must_be_known_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    folder, clock = str(tmp_path), Clock(monkeypatch)
    mine = leases._machine()
    if case == "machines without names":
        monkeypatch.setattr(leases, "_machine", lambda: "")
        put_other(folder, machine="", pid=2**22 + 1)
    elif case == "hidden process":
        put_other(folder, machine=mine, pid=2**22 + 1)

        def kill(pid: int, number: int) -> None:
            assert (pid, number) == (2**22 + 1, 0)
            raise PermissionError

        monkeypatch.setattr(leases.os, "kill", kill)
    else:
        put_other(folder, machine=mine, pid=os.getpid(), started="1")
    assert take(folder).token == 2
    assert (clock.sleeps == 0) == case.startswith("same"), "the others are waited for"


def test_kept_by_a_thread_until_another_has_it(tmp_path: Path) -> None:
    folder = str(tmp_path)
    lease = take(folder, seconds=0.3)

    def wait_until(is_so: Any) -> None:
        until = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.02)

    with lease.kept():
        wait_until(lambda: getattr(newest(open_store(folder), folder), "renewals", 0) >= 2)
        assert not lease.is_lost
        put_other(folder, token=2)
        wait_until(lambda: lease.is_lost)
    with pytest.raises(Fenced):
        lease.check()


def test_it_is_kept_where_renewing_fails_in_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, failures = MemoryStore(), iter(range(1000))

    def fail() -> None:
        if next(failures) in (1, 2, 3):
            raise TransientError("SlowDown")

    store.before_write = fail
    lease = take("m", seconds=0.06, store=store)
    with lease.kept():
        until = time.monotonic() + 60
        while next(iter(store.list("m"))).version == "1" and time.monotonic() < until:
            time.sleep(0.01)
    held = newest(store, "m")
    assert held is not None and held.renewals >= 4


def test_an_answer_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease was written all the same: it is ours, not another's."""
    store = MemoryStore()
    real, lost = store.write_new, iter([True])

    def write_new(uri: str, data: bytes, *, staging: str | None = None) -> bool:
        done = real(uri, data)
        if next(lost, False):
            raise TransientError("ConnectionClosedError")
        return done

    monkeypatch.setattr(store, "write_new", write_new)
    monkeypatch.setattr("m2f_batch.storage.retries.random.uniform", lambda *_: 0.0)
    assert take("m", store=store).token == 1
    assert newest_token(store, "m") == 1


def test_undone_it_leaves_no_trace_and_fences_who_still_works_for_it(folder: str) -> None:
    lease = take(folder)
    run = open_directory(folder.removesuffix("/_state/lease"), Fence(lease.token, "p"))
    run.check_fence()
    lease.undo()
    assert [*open_store(folder).list(folder)] == []
    assert is_taken_over(open_store(folder), folder, 1)
    with pytest.raises(Fenced):
        run.write("run.json", b"{}")
    assert [*open_store(folder).list(run.uri)] == []


def test_a_late_renewal_takes_nothing_back(tmp_path: Path) -> None:
    """The holder was stopped between asking whether it still holds, and writing so."""
    folder = str(tmp_path)
    first = take(folder)
    real = first._store.write

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(open_store(folder), name)

        def write(self, uri: str, data: bytes) -> None:
            put_other(folder, token=2)
            real(uri, data)

    first._store = Late()  # type: ignore[assignment]
    first.renew()
    assert newest_token(open_store(folder), folder) == 2
    with pytest.raises(Fenced):
        first.renew()
