"""The lock on OUTPUT: one process at a time writes there, by a lease whose number is the fencing token (see ``hold``).

    RUN/_state/lease/000000007.json    the highest number holds OUTPUT
    RUN/_state/tmp/000000007/          staging of this holder, on disks

A lease is never handed over. A new holder creates the next number with ``write_new``, which only one of several racing
runs can. The age of a lease is told by the store's own clock. Taking over removes the staging folders of earlier
holders, so on disks none of their files can appear any more, wherever they were stopped. On other stores a writer
checks right before each write that its number is still the highest.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from m2f_batch.errors import Plain, RunError, TransientError, UsageError
from m2f_batch.messages.spoken import now
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import Fenced, NotFound, Store

RENEWALS = 6  # of a lease in its time: so many requests in a row may fail before it is lost
KEPT = 3  # old leases that stay
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """The content of a lease. Times are the holder's, ISO 8601 in UTC. ``seconds`` without a renewal end it."""

    token: int
    nonce: str
    holder: str  # host and process, for people
    machine: str  # host, boot and process namespace, for telling whether the process is one of ours
    pid: int
    started: str  # of the process, in ticks since boot: process numbers come again
    since: str
    renewed_at: str
    renewals: int
    seconds: float
    released: bool


class Lease:
    """A lease that was acquired. Keep it with ``kept``."""

    def __init__(self, store: Store, folder: str, mine: Holder) -> None:
        self._store, self._folder, self._mine = store, folder, mine
        self._lock = threading.Lock()
        self.is_lost = False

    @property
    def token(self) -> int:
        """The fencing token: greater than that of every earlier holder."""
        return self._mine.token

    def renew(self) -> None:
        """Say that we live. Raises Fenced when another has taken over."""
        self.check()
        with self._lock:
            if not self._mine.released:
                self._mine = replace(self._mine, renewed_at=now(), renewals=self._mine.renewals + 1)
                self._store.write(_file(self._folder, self.token), _bytes(self._mine))

    def check(self) -> None:
        """Raises Fenced when another has taken over."""
        if not self.is_lost:
            self.is_lost = is_taken_over(self._store, self._folder, self.token)
        if self.is_lost:
            raise Fenced(f"output.uri: another run has taken {self._folder.removesuffix('/_state/lease')} over")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease meanwhile, in a thread of its own."""
        stop = threading.Event()
        thread = threading.Thread(target=self._keep, args=(stop,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(self._mine.seconds / RENEWALS):
            try:
                self.renew()
            except Fenced:
                return
            except (TransientError, RunError):
                continue  # the next try is seconds away, and ``check`` tells at once

    def release(self) -> None:
        """Give it back, unless it was lost."""
        self.check()
        with self._lock:
            self._mine = replace(self._mine, released=True, renewed_at=now())
            self._store.write(_file(self._folder, self.token), _bytes(self._mine))

    def undo(self) -> None:
        """Remove every trace of it: of a run that has not begun."""
        with self._lock:
            self._mine = replace(self._mine, released=True)  # a renewal that is under way must not write it again
            self._store.delete([_file(self._folder, self.token)])


def newest_token(store: Store, folder: str) -> int:
    """Return the highest number of a lease in the folder, 0 when there was never one."""
    return max(_tokens(store, folder), default=0)


def is_taken_over(store: Store, folder: str, token: int) -> bool:
    """Return whether the lease of that number is held no more. ``undo`` ends one, too, without a trace."""
    latest = newest_token(store, folder)
    return latest > token or (latest < token and not store.exists(_file(folder, token)))


def newest(store: Store, folder: str) -> Holder | None:
    """Read the newest lease, None when there was never one."""
    while token := newest_token(store, folder):
        holder = _read(store, folder, token)
        if holder is not None:  # else it was removed meanwhile, by a run that did not begin
            return holder
    return None


def acquire(store: Store, folder: str, seconds: float, say: Callable[[str], None]) -> Lease:
    """Return the lease of the folder, for ``seconds`` from its last renewal on.

    Waits for a holder that may be dead, until it renews its lease or the lease expires: by the store's clock, or by
    ours, should that one be set back. Raises UsageError, which says who holds it and since when, while a living one
    does.
    """
    seen: Holder | None = None
    seen_at = time.monotonic()
    while True:
        asked_at = time.monotonic()  # before we look: it was not renewed until then
        held = Retries(PATIENCE_SECONDS).run(lambda: newest(store, folder))
        is_same = held is not None and seen is not None and (seen.nonce, seen.renewals) == (held.nonce, held.renewals)
        if not is_same:
            seen_at = time.monotonic()
        if held is None or _is_over(store, folder, held) or (is_same and asked_at - seen_at > held.seconds):
            lease = _write(store, folder, held.token + 1 if held else 1, seconds)
            if lease is not None:
                return lease
            continue
        if _is_alive_here(held) or (seen is not None and not is_same):
            raise UsageError(
                f"is held by another run, {held.holder}, since {held.since}",
                field="output.uri",
                value=Plain(folder.removesuffix("/_state/lease")),
                hint="wait until it ends, stop it, or give another OUTPUT",
            )
        if seen is None:
            say(f"waiting, at most {held.seconds:g} s, to see whether {held.holder} still works on OUTPUT")
        seen = held
        time.sleep(min(POLL_SECONDS, held.seconds / RENEWALS))


def _is_over(store: Store, folder: str, held: Holder) -> bool:
    if held.released or _is_dead_here(held):
        return True
    age = store.age(_file(folder, held.token))
    return age is not None and age > held.seconds


def _write(store: Store, folder: str, token: int, seconds: float) -> Lease | None:
    """Return the lease of that number, if we were the first to write it."""
    pid = os.getpid()
    mine = Holder(
        token=token,
        nonce=uuid.uuid4().hex,
        holder=f"process {pid} on {socket.gethostname()}",
        machine=_machine(),
        pid=pid,
        started=_started(pid) or "",
        since=now(),
        renewed_at=now(),
        renewals=0,
        seconds=seconds,
        released=False,
    )
    if not Retries(PATIENCE_SECONDS).run(lambda: store.write_new(_file(folder, token), _bytes(mine))):
        held = _read(store, folder, token)
        if held is None or held.nonce != mine.nonce:  # ours after all, where an answer was lost
            return None
    store.delete(_file(folder, old) for old in _tokens(store, folder) if old <= token - KEPT)
    return Lease(store, folder, mine)


def _tokens(store: Store, folder: str) -> list[int]:
    names = (entry.uri.rpartition("/")[2].removesuffix(".json") for entry in store.list(f"{folder}/"))
    return [int(name) for name in names if name.isdecimal()]


def _read(store: Store, folder: str, token: int) -> Holder | None:
    try:
        tree = json.loads(store.read(_file(folder, token)))
        return Holder(**{**tree, "token": token})
    except NotFound:
        return None
    except (ValueError, TypeError):
        # an unreadable lease has no holder, and counts until it is as old as it may be
        return Holder(token, "", "a process unknown", "", 0, "", "a time unknown", "", 0, 60.0, False)


def _file(folder: str, token: int) -> str:
    return f"{folder}/{token:09d}.json"


def _bytes(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2) + "\n").encode()


def _is_dead_here(held: Holder) -> bool:
    if not _is_of_this_machine(held):
        return False
    started = _started(held.pid)
    return not _is_hidden(held.pid) if started is None else started != held.started


def _is_alive_here(held: Holder) -> bool:
    return _is_of_this_machine(held) and _started(held.pid) == held.started


def _is_of_this_machine(held: Holder) -> bool:
    return bool(held.started and held.machine) and held.machine == _machine()


def _machine() -> str:
    """Name this boot of this machine and the namespace of its process numbers. Empty where they are not known.

    With its name, since machines that were cloned while they ran share the rest.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process began, in ticks since boot, None if it is not there, or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_hidden(pid: int) -> bool:
    """Return whether a process of that number is there that is hidden from us: another user's, with hidepid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False  # ours: we would know
