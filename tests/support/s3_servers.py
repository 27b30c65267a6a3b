"""S3 servers for tests: moto in this process, and a real Ceph gateway where the script that starts one is at hand.

A test asks for ``moto_s3``, ``ceph_s3`` or ``s3_endpoint`` (once with each): the AWS variables are set for the test
alone, an empty bucket is made, and clients opened before are forgotten. Use it by ``pytest_plugins =
["support.s3_servers"]``
in a test module, or by importing the fixtures in a conftest. (PYTEST_DONT_REWRITE: there are no assertions here.)
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.ceph import CEPH_SCRIPT, start_ceph, wipe_ceph
from support.stores import reset_stores


@dataclass(frozen=True)
class S3Endpoint:
    """A server with one empty bucket, its variables set in the environment; ``kind`` is moto or ceph."""

    kind: str
    bucket: str
    variables: dict[str, str]

    @property
    def uri(self) -> str:
        """The bucket's URI."""
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        """A plain boto3 client, to look from outside."""
        return _plain_client(tuple(sorted(self.variables.items())))

    def put(self, objects: dict[str, bytes]) -> None:
        """Writes objects by key."""
        client = self.client()
        for key, data in objects.items():
            client.put_object(Bucket=self.bucket, Key=key, Body=data)


@cache
def _plain_client(variables: tuple[tuple[str, str], ...]) -> Any:
    """One for each server, because making one costs as much as a test."""
    import boto3

    names = dict(variables)
    return boto3.session.Session().client(
        "s3",
        names.get("AWS_DEFAULT_REGION", "us-east-1"),
        endpoint_url=names["AWS_ENDPOINT_URL"],
        aws_access_key_id=names["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=names["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="session")
def moto_server() -> Iterator[dict[str, str]]:
    """The variables of a moto server that lives as long as the session."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield _variables(f"http://{host}:{port}", "moto-key", "moto-secret")
    server.stop()


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a Ceph gateway that lives as long as the session; skips where it cannot be had."""
    if not CEPH_SCRIPT.exists():
        pytest.skip("no ceph-rgw-up beside this checkout")
    folder = tmp_path_factory.getbasetemp() / "ceph"
    try:
        yield _started_ceph(folder)
    finally:
        wipe_ceph(folder)
        _started_ceph.cache_clear()


@cache  # the fixture may exist twice, in a conftest and as a plugin
def _started_ceph(folder: Path) -> dict[str, str]:
    try:
        return start_ceph(folder)
    except RuntimeError as error:  # a server that is not ours and does not start says nothing about our code
        pytest.skip(str(error))


@pytest.fixture
def moto_s3(moto_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    """A moto server with an empty bucket."""
    yield from _opened("moto", moto_server, monkeypatch)


@pytest.fixture
def ceph_s3(ceph_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    """A Ceph gateway with an empty bucket."""
    yield from _opened("ceph", ceph_server, monkeypatch)


@pytest.fixture(params=["moto", "ceph"])
def s3_endpoint(request: pytest.FixtureRequest) -> S3Endpoint:
    """Each server in turn, with an empty bucket."""
    return request.getfixturevalue(f"{request.param}_s3")


def set_variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``variables`` the only AWS settings that a test sees, and forgets opened clients."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **variables,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    reset_stores()


def _variables(endpoint: str, key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _opened(kind: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    set_variables(variables, monkeypatch)
    endpoint = S3Endpoint(kind, f"test-{kind}-{uuid.uuid4().hex[:12]}", variables)
    endpoint.client().create_bucket(Bucket=endpoint.bucket)
    yield endpoint
    reset_stores()
