"""Every fault of a store is one of our own errors, which says whom it concerns."""

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3_servers import S3Endpoint, set_variables

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.storage import places
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Denied, NotFound, StoreUnavailable, Unreachable, Unreadable


def test_a_missing_bucket_is_wrong_for_all(s3_endpoint: S3Endpoint) -> None:
    gone = "s3://no-such-bucket-here"
    store = open_store(gone)
    for act in (
        store.read,
        store.stat,
        store.is_folder,
        lambda uri: [*store.list(uri)],
        lambda uri: store.write(uri, b""),
    ):
        with pytest.raises(StoreUnavailable, match="no such bucket"):
            act(f"{gone}/a.jpg")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_are_wrong_for_all(ceph_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ceph_s3.put({"a.jpg": b"x"})
    set_variables({**ceph_s3.variables, name: "not-the-right-one"}, monkeypatch)
    store, uri = open_store(ceph_s3.uri), f"{ceph_s3.uri}/a.jpg"
    for act in (
        store.read,
        store.stat,
        store.is_folder,
        lambda uri: [*store.list(uri)],
        lambda uri: store.write(uri, b""),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            act(uri)
        assert "not-the-right-one" not in str(caught.value)
        assert "check the AWS variables" in str(caught.value)
    with pytest.raises(StoreUnavailable):
        places.stat_many([uri])


def test_no_keys_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "us-east-1"}, monkeypatch)
    with pytest.raises(StoreUnavailable, match="NoCredentialsError"):
        open_store("s3://bucket").read("s3://bucket/a.jpg")


def test_one_denied_object(ceph_s3: S3Endpoint) -> None:
    ceph_s3.put({"secret.jpg": b"x", "open.jpg": b"y"})
    resource = f"arn:aws:s3:::{ceph_s3.bucket}/secret.jpg"
    policy = f'"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "{resource}"'
    ceph_s3.client().put_bucket_policy(
        Bucket=ceph_s3.bucket, Policy=f'{{"Version": "2012-10-17", "Statement": [{{{policy}}}]}}'
    )
    store = open_store(ceph_s3.uri)
    for act in (store.read, store.stat):
        with pytest.raises(Denied, match=r"secret.jpg: access denied$"):
            act(f"{ceph_s3.uri}/secret.jpg")
    denied, allowed = store.stat_many([f"{ceph_s3.uri}/secret.jpg", f"{ceph_s3.uri}/open.jpg"])
    assert denied is None
    assert allowed and allowed.size == 1


def test_an_endpoint_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    set_variables({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}, monkeypatch)
    with pytest.raises(Unreachable, match="AWS_ENDPOINT_URL"):
        open_store("s3://bucket").read("s3://bucket/a.jpg")
    set_variables({**keys, "AWS_ENDPOINT_URL": "not a url"}, monkeypatch)
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL"):
        open_store("s3://bucket")


@pytest.fixture
def one_reply(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A server whose every answer is the bytes in the list."""
    answer: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(answer[0])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    set_variables({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}, monkeypatch)
    yield answer
    server.shutdown()
    server.server_close()


def _refusal(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><RequestId>r-1</RequestId></Error>"
    return f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (_refusal(503, "SlowDown"), TransientError),
        (_refusal(500, "InternalError"), TransientError),
        (_refusal(400, "RequestTimeout"), TransientError),
        (_refusal(400, "ExpiredToken"), StoreUnavailable),
        (_refusal(403, "RequestTimeTooSkewed"), StoreUnavailable),
        (_refusal(403, "InvalidObjectState"), Unreadable),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "e"\r\nConnection: close\r\n\r\nonly this', TransientError),
        (b"", TransientError),
    ],
    ids=["slow", "internal", "timeout", "expired", "skewed", "archived", "truncated", "hung up"],
)
def test_replies_are_sorted(one_reply: list[bytes], answer: bytes, fault: type[Exception]) -> None:
    one_reply.append(answer)
    with pytest.raises(fault) as caught:
        open_store("s3://bucket").read("s3://bucket/a.jpg")
    assert type(caught.value) is fault
    assert str(caught.value).startswith("s3://bucket/a.jpg: ")
    assert "r-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "fault"),
    [(PermissionError(13, "no"), Denied), (OSError(5, "EIO"), Unreadable), (OSError(116, "ESTALE"), TransientError)],
)
def test_disk_errors_are_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, fault: type[Exception]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(fault, match=rf"^{tmp_path}/a.jpg: "):
        open_store(str(tmp_path)).read(f"{tmp_path}/a.jpg")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.write(f"{tmp_path}/a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", full)
    for act in (store.write, store.write_new):
        with pytest.raises(StoreUnavailable, match="ENOSPC"):
            act(f"{tmp_path}/a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert store.read(f"{tmp_path}/a") == b"old"


@pytest.mark.parametrize(
    "uri", ["", "a\0b", "s3://", "s3:///key", "s3://KEY:SECRET@bucket/x", "http://u:SECRET@host/x", "gs://u:SECRET@b/x"]
)
def test_uris_that_name_no_place(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(uri)
    assert "SECRET" not in str(caught.value)


def test_every_fault_ends_a_command_in_words() -> None:
    assert all(issubclass(kind, RunError) for kind in (NotFound, Denied, Unreadable, StoreUnavailable, Unreachable))
