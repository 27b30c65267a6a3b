"""Submitting to a Jobs API behind TLS: whose certificate is trusted, and what is sent to whom."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT
from support.certificates import certificate
from support.jobs_api import Cluster, serving

TOKEN = "secret-token"
SEGMENT = ("segment", "s3://bucket/images", "s3://bucket/labels", "--model", "s3://bucket/model")


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path)


@pytest.fixture
def cluster(pem: Path) -> Iterator[Cluster]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    with serving(Cluster(log="one\ntwo\n", token=TOKEN), tls) as there:
        yield there


def submit(address: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "m2f_batch.cli", "submit", *SEGMENT, "--address", address, *options)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SSL_", "AWS_"))}
    return subprocess.run(
        command,
        env=environ | {"RAY_AUTH_TOKEN": TOKEN} | variables,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_trusted_certificate(cluster: Cluster, pem: Path) -> None:
    done = submit(cluster.url, SSL_CERT_FILE=str(pem))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one\ntwo\n" and cluster.tokens_seen == {f"Bearer {TOKEN}"}
    assert cluster.url.startswith("https://") and len(cluster.submitted) == 1


def test_a_certificate_of_somebody_else_is_sent_no_token(cluster: Cluster) -> None:
    done = submit(cluster.url, "--submission-id", "night")  # which waits for a head that does not answer
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "certificate that is not trusted here (certificate verify failed: " in done.stderr
    assert "SSL_CERT_FILE" in done.stderr and "_ssl.c" not in done.stderr
    assert not cluster.tokens_seen and not cluster.submitted


def test_http_where_https_is_spoken(cluster: Cluster) -> None:
    done = submit(cluster.url.replace("https://", "http://"))
    assert done.returncode == 1 and done.stdout == "" and "cannot be reached" in done.stderr
    assert "where that port speaks TLS, its address begins with https://" in done.stderr
    assert not cluster.tokens_seen and not cluster.submitted
