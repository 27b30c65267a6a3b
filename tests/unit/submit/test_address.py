"""Where a job is sent: the address of a cluster, its token, and who has not answered."""

import socket
from pathlib import Path

import pytest
from support.jobs_api import Cluster, serving
from support.submitting import SEGMENT, TOKEN, refused, submit

from m2f_batch.cli import main
from m2f_batch.errors import UsageError
from m2f_batch.submit.address import find_token, parse_address

pytestmark = pytest.mark.usefixtures("as_anybody")


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "head:8265", "http://", "http://h:99999", "http://h/?a=b", "http://[::1"]
)
def test_an_address_that_is_no_url_of_a_jobs_api(address: str) -> None:
    with pytest.raises(UsageError, match="--address"):
        parse_address(address)


def test_an_address_with_a_password_is_refused_without_saying_it() -> None:
    with pytest.raises(UsageError) as error:
        parse_address("http://me:hunter22@head:8265")
    assert "hunter22" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8265", True),
        ("http://127.3.2.1:8265", True),
        ("https://[::1]:8265/ray/", True),
        ("http://10.0.0.1:8265", False),
        ("http://localhost.example.com:8265", False),
        ("http://127.0.0.1.nip.io:8265", False),
    ],
)
def test_what_is_this_machine(url: str, expected: bool) -> None:
    assert parse_address(url).is_loopback is expected


def test_the_token_comes_from_where_ray_looks(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    (tmp_path / "file").write_text(" of-file\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    assert find_token({}, tmp_path) == "of-home"
    assert find_token(path, tmp_path) == "of-file"
    assert find_token({**path, "RAY_AUTH_TOKEN": "of-variable"}, tmp_path) == "of-variable"
    assert find_token({**path, "RAY_AUTH_MODE": "disabled"}, tmp_path) is None
    assert find_token({}, tmp_path / "file") is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RAY_AUTH_MODE": "token"}, "there is no token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "cannot be read"),
        ({"RAY_AUTH_TOKEN_PATH": "/dev/null"}, "is empty"),
        ({"RAY_AUTH_TOKEN": "two\nlines"}, "is no token"),
    ],
)
def test_a_token_that_cannot_be_one(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as error:
        find_token(environ, tmp_path)
    assert "lines" not in str(error.value)


def test_another_machine_without_a_token(capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    address = ("--address", "http://192.0.2.1:8265")  # of documentation: nobody answers there
    said = refused(capsys, *SEGMENT, *address)
    assert "192.0.2.1" in said and "--set compute.allow_no_token=true" in said and "RAY_AUTH_TOKEN" in said
    said = refused(capsys, "evaluate", "/run", "--ground-truth", "/truth.json", *address)
    assert "--allow-no-token" in said


def test_another_machine_whose_cluster_asks_for_none(cluster, capsys, monkeypatch) -> None:
    cluster.token = None
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    assert "whoever reaches" in refused(capsys, *SEGMENT, "--address", cluster.url)
    assert not cluster.submitted and not cluster.packages and not cluster.tokens_seen
    assert submit(cluster, *SEGMENT, "--set", "compute.allow_no_token=true") == 0
    assert len(cluster.submitted) == 1 and not cluster.tokens_seen  # who does not ask for it does not get it


def test_a_token_in_clear_to_another_machine_is_said(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.address._is_loopback", lambda host: False)
    assert submit(cluster) == 0
    said = capsys.readouterr().err
    assert "unencrypted" in said and TOKEN not in said


def test_a_missing_or_wrong_token(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    said = refused(capsys, *SEGMENT, "--address", cluster.url)
    assert "403" in said and "of-another-cluster" not in said
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert "asks for a token, and there is none" in refused(capsys, *SEGMENT, "--address", cluster.url)
    assert not cluster.submitted and not cluster.packages


def test_nobody_there(capsys) -> None:
    with serving(Cluster()) as gone:
        pass
    assert main(["submit", *SEGMENT, "--address", gone.url]) == 1
    said = capsys.readouterr().err
    assert f" {gone.url} cannot be reached (Connection refused); is the head up, and its dashboard's port" in said
    assert main(["submit", "follow", "some-id", "--address", gone.url]) == 1


@pytest.mark.parametrize(
    ("scheme", "host", "status", "said"),
    [
        (
            "https",
            None,
            None,
            "(TLS: wrong version number); where that port speaks no TLS, its address begins with http:",
        ),
        ("http", "no-such.invalid", None, "); is the host's name right, and known on this machine?"),
        (
            "http",
            None,
            404,
            "answers 404 <html>of a proxy</html>; is its path right? The Jobs API's is http://HOST:8265",
        ),
        (
            "http",
            None,
            502,
            "answers 502 <html>of a proxy</html>; that is what a proxy says where no head is behind it",
        ),
    ],
)
def test_what_to_look_at_where_nobody_has_answered(scheme, host, status, said, cluster, capsys) -> None:
    cluster.proxy["/api/"] = [status] * 10 if status else []
    address = cluster.url.replace("http:", f"{scheme}:").replace("127.0.0.1", host or "127.0.0.1")
    assert main(["submit", *SEGMENT, "--address", address]) == 1
    assert said in capsys.readouterr().err


def test_a_head_that_takes_no_connection(cluster, capsys, monkeypatch) -> None:
    monkeypatch.setattr("m2f_batch.submit.client.ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "http://{}:{}".format(*silent.getsockname())
        assert main(["submit", *SEGMENT, "--address", address]) == 1
    assert "(no answer in time); does a firewall or a network policy stand between?" in capsys.readouterr().err
