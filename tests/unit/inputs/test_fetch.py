"""Bytes, or the reason why there are none."""

import http.server
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.s3_servers import S3Endpoint, set_variables

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.inputs.fetch import Retries, fetch, fetch_many
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import StoreUnavailable

pytest_plugins = ["support.s3_servers"]


@pytest.fixture(params=["local", "moto", "ceph"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_s3").uri


def _put(uri: str, data: bytes) -> ImageRef:
    store = open_store(uri)
    store.write(uri, data)
    entry = store.stat(uri)
    assert entry is not None
    return ImageRef(uri, entry.version)


def _reason(ref: ImageRef) -> tuple[str, str, str]:
    with pytest.raises(ImageError) as caught:
        fetch(ref)
    return caught.value.stage, caught.value.reason, caught.value.message


def test_the_listed_version_is_fetched(place: str) -> None:
    assert fetch(_put(f"{place}/a b.jpg", b"pixels")) == b"pixels"
    assert fetch(_put(f"{place}/empty.jpg", b"")) == b""


def test_another_version_is_not(place: str) -> None:
    ref = _put(f"{place}/a.jpg", b"old")
    _put(f"{place}/a.jpg", b"newer")
    assert _reason(ref) == ("fetch", "Changed", f"{place}/a.jpg: has changed since it was listed")


def test_same_size_other_time_is_another_version(tmp_path: Path) -> None:
    ref = _put(f"{tmp_path}/a.jpg", b"old")
    os.utime(ref.uri, ns=(1, 1))
    assert _reason(ref)[1] == "Changed"


def test_what_was_missing_when_listed(place: str) -> None:
    ref = ImageRef(f"{place}/a.jpg", "")
    stage, reason, message = _reason(ref)
    assert (stage, reason) == ("fetch", "NotFound")
    assert message.startswith(f"{place}/a.jpg: no such ")
    _put(ref.uri, b"x")
    assert _reason(ref) == ("fetch", "Changed", f"{place}/a.jpg: has appeared since it was listed")


def test_what_has_vanished(place: str) -> None:
    ref = _put(f"{place}/a.jpg", b"x")
    open_store(place).delete([ref.uri])
    assert _reason(ref)[1] == "NotFound"
    assert _reason(ref) == _reason(ref)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    assert _reason(ImageRef(f"{tmp_path}/a.jpg", ""))[1] == "Unreadable"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = _put(f"{tmp_path}/a.jpg", b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert _reason(ref) == ("fetch", "AccessDenied", f"{tmp_path}/a.jpg: permission denied")


def test_many_in_order_with_their_failures(place: str) -> None:
    refs = [_put(f"{place}/{number}.jpg", f"pixels {number}".encode()) for number in range(12)]
    refs.insert(5, ImageRef(f"{place}/none.jpg", ""))
    fetched = [*fetch_many(iter(refs), threads=3)]
    assert [ref for ref, _ in fetched] == refs
    error = fetched.pop(5)[1]
    assert isinstance(error, ImageError) and error.reason == "NotFound"
    assert [data for _, data in fetched] == [f"pixels {number}".encode() for number in range(12)]


def test_wrong_keys_stop_everything(ceph_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [_put(f"{ceph_s3.uri}/{number}.jpg", b"x") for number in range(3)]
    set_variables({**ceph_s3.variables, "AWS_SECRET_ACCESS_KEY": "wrong"}, monkeypatch)
    with pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch"):
        [*fetch_many(refs)]


class Throttled:
    """An S3 server that answers 503 so many times, then the bytes."""

    def __init__(self, refusals: int) -> None:
        self.left, self.requests, self._lock = refusals, 0, threading.Lock()

    def answer(self) -> tuple[int, bytes]:
        with self._lock:
            self.requests += 1
            self.left -= 1
            return (503, b"<Error><Code>SlowDown</Code></Error>") if self.left >= 0 else (200, b"pixels")


@pytest.fixture
def throttled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Throttled]:
    state = Throttled(2)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # a thread of the test before this one may still be asking for its own images
            status, body = state.answer() if self.path.partition("?")[0] == "/bucket/a.jpg" else (404, b"")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"v1"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    set_variables({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}, monkeypatch)
    yield state
    server.shutdown()
    server.server_close()


REF = ImageRef("s3://bucket/a.jpg", "v1")


def test_a_passing_fault_is_tried_again(throttled: Throttled) -> None:
    waits: list[float] = []
    retries = Retries(first_wait=1.0, sleep=waits.append)
    assert fetch(REF, retries) == b"pixels"
    assert (retries.count, throttled.requests) == (2, 3)
    assert 0 <= waits[0] <= 1 and 0 <= waits[1] <= 2


def test_the_client_itself_tries_again(throttled: Throttled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    retries = Retries()
    assert fetch(REF, retries) == b"pixels"
    assert (retries.count, throttled.requests) == (0, 3)


def test_the_budget_ends_the_tries(throttled: Throttled, monkeypatch: pytest.MonkeyPatch) -> None:
    throttled.left = 10**9
    clock = itertools.count()  # a tenth of a second later at each look, however slow the machine is
    monkeypatch.setattr("m2f_batch.storage.retries.time", SimpleNamespace(monotonic=lambda: next(clock) / 10))
    retries = Retries(budget=1.5, first_wait=0.02, longest_wait=0.1, sleep=lambda _: None)
    with pytest.raises(TransientError, match=r"^s3://bucket/a.jpg: SlowDown \(\d+ tries in 1.5 s\)$"):
        fetch(REF, retries)
    assert retries.count == throttled.requests - 1 >= 3
    with pytest.raises(TransientError):
        [*fetch_many([REF] * 5, threads=2, retries=Retries(budget=0.05, first_wait=0.01))]


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    set_variables({**keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, monkeypatch)
    retries = Retries(budget=2.0, first_wait=0.02)
    open_store(REF.uri)  # importing what it takes is no part of the budget
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        fetch(REF, retries)
    assert retries.count >= 2


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc here")
def test_a_file_that_says_size_0_and_gives_bytes_is_read() -> None:
    """As files of /proc, and of mounts of cloud drives that do not know sizes."""
    data, entry = open_store("/proc/version").read_entry("/proc/version")
    assert data.startswith(b"Linux version") and entry.version.startswith("0-")
    retries = Retries()
    assert fetch(ImageRef("/proc/version", entry.version), retries) == data
    assert retries.count == 0


class LyingOs:
    """``os``, but for the sizes of files before and after they are read."""

    def __init__(self, before: int, after: int) -> None:
        self._sizes = before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def stat(self, path: str) -> os.stat_result:
        return self._told(os.stat(path), self._sizes[0])

    def fstat(self, file: int) -> os.stat_result:
        return self._told(os.fstat(file), self._sizes[1])

    def _told(self, info: os.stat_result, size: int) -> os.stat_result:
        more = {name: getattr(info, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")}
        times = {"st_atime": info.st_atime, "st_mtime": info.st_mtime, "st_ctime": info.st_ctime}
        return os.stat_result((*info[:6], size, *info[7:10]), more | times)


def test_a_size_that_is_not_what_a_file_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for one that nobody writes (files of /sys say 4096), another try for one that may be being written."""
    ref = _put(f"{tmp_path}/a.jpg", b"pixels")

    def told(age: float, *sizes: int) -> None:
        os.utime(ref.uri, (time.time() - age, time.time() - age))
        monkeypatch.setattr("m2f_batch.storage.local.os", LyingOs(*sizes))

    told(3600, 4096, 4096)
    assert _reason(ref) == ("fetch", "Unreadable", f"{ref.uri}: gives 6 bytes, and its size is 4096")
    for age, sizes in ((0, (4096, 4096)), (3600, (10, 20)), (3600, (0, 3))):
        told(age, *sizes)
        with pytest.raises(TransientError, match="being written"):
            fetch(ref, Retries(budget=0.1))
