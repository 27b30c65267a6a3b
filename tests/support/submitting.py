"""Submits jobs to a Jobs API of the tests, as a machine without settings of its own would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs_api import Cluster, serving

from m2f_batch.cli import main
from m2f_batch.ray_session.forwarded import forwarded_names
from m2f_batch.submit import command, following

TOKEN = "secret-token"
SEGMENT = ("segment", "s3://bucket/images", "s3://bucket/labels", "--model", "s3://bucket/model")


@pytest.fixture
def as_anybody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token and no settings of this machine; a cluster is asked again at once."""
    for name in (*forwarded_names(), "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in (command, following):
        monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)


@pytest.fixture(name="cluster")
def jobs_cluster() -> Iterator[Cluster]:
    with serving(Cluster(log="one\ntwo\nthree\n")) as there:
        yield there


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that ends with 2."""
    assert main(["submit", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


def submit(cluster: Cluster, *arguments: str) -> int:
    return main(["submit", *(arguments or SEGMENT), "--address", cluster.url])


def flags_of(arguments: tuple[str, ...]) -> dict[str, str]:
    return {"input.uri": arguments[1], "output.uri": arguments[2], "model.uri": arguments[4]}
