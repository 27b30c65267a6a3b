"""Buckets that want to be asked in their own way: virtual hosts, requester-pays, public ones without keys."""

import hashlib
import json
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from support.s3_gates import Gate
from support.s3_servers import S3Endpoint
from support.stores import reset_stores

from m2f_batch.cli import main
from m2f_batch.inputs.listing import list_input
from m2f_batch.storage.places import open_store

DENIED = (
    "access denied (a requester-pays bucket wants storage.s3.request_payer: requester (AWS_REQUEST_PAYER), "
    "a public bucket storage.s3.anonymous: true (AWS_NO_SIGN_REQUEST=YES))"
)


def lint(bucket: str, *options: str, config: Path | None = None) -> int:
    """``lint`` of the annotations in the bucket; more keys go through a config, which finetune reads, too."""
    given = ["--config", str(config)] if config else []
    return main(["lint", f"{bucket}/coco.json", "--images", f"{bucket}/in", *given, *options])


def config_of(folder: Path, **settings: object) -> Path:
    """A config of finetune with ``storage.s3``."""
    file = folder / "job.yaml"
    file.write_text(json.dumps({"train": {"steps": 1}, "storage": {"s3": settings}}))
    return file


def test_virtual_hosts_only(
    gate: Gate, moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case S3-d: the refusal names the key, which each of the three ways of giving it sets."""
    gate.virtual_only = True
    assert lint(moto_s3.uri) == 2
    said = capsys.readouterr().err
    assert "SecondLevelDomainForbidden: this server wants the bucket in its host name" in said
    assert said.endswith("set storage.s3.addressing_style: virtual (or AWS_VIRTUAL_HOSTING=YES)\n")
    gate.seen.clear()
    assert lint(moto_s3.uri, config=config_of(tmp_path, addressing_style="virtual")) == 0
    assert {seen.host for seen in gate.seen} == {f"{moto_s3.bucket}.store.test"}
    monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "YES")
    assert lint(moto_s3.uri) == 0
    monkeypatch.delenv("AWS_VIRTUAL_HOSTING")
    (tmp_path / "aws").write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    reset_stores()
    assert lint(moto_s3.uri) == 0
    reset_stores()
    assert lint(moto_s3.uri, config=config_of(tmp_path, addressing_style="path")) == 2, "the key wins over the file"


def test_requester_pays(
    gate: Gate, moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case S3-c, with the key and with GDAL's variable; every request says who pays."""
    gate.paid = {moto_s3.bucket}
    base = ["segment", f"{moto_s3.uri}/in", str(tmp_path / "out"), "--model", str(DEMO_MODEL), "--dry-run"]
    assert main(base) == 2
    assert capsys.readouterr().err == f"m2f-batch segment: input.uri: {moto_s3.uri}/in: {DENIED}\n"
    assert lint(moto_s3.uri) == 2
    gate.seen.clear()
    assert lint(moto_s3.uri, config=config_of(tmp_path, request_payer="requester")) == 0
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    listing = list_input(f"{moto_s3.uri}/lists/all.txt")
    assert listing.table.num_rows == 3 and all(listing.table["version"].to_pylist())
    store = open_store(moto_s3.uri)
    store.write(f"{moto_s3.uri}/out/a", b"x")
    assert store.replace(f"{moto_s3.uri}/out/a", b"y", hashlib.md5(b"x").hexdigest())
    (tmp_path / "large").write_bytes(bytes(9_000_000))
    store.upload(tmp_path / "large", f"{moto_s3.uri}/out/large")
    assert store.age(f"{moto_s3.uri}/out/large") is not None
    store.delete([f"{moto_s3.uri}/out/a"])
    assert {seen.headers.get("x-amz-request-payer") for seen in gate.seen} == {"requester"}
    assert {"GET", "HEAD", "PUT", "POST", "DELETE"} == {seen.method for seen in gate.seen}


def test_a_public_bucket_without_keys(
    gate: Gate, moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case S3-e: without keys, and with keys that the bucket does not know."""
    gate.public = {moto_s3.bucket}
    assert lint(moto_s3.uri) == 2, "keys of a stranger"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    reset_stores()
    capsys.readouterr()
    assert lint(moto_s3.uri) == 2
    assert capsys.readouterr().err.endswith(
        f"{moto_s3.uri}/coco.json: NoCredentialsError: check the AWS variables; a public bucket needs no keys: set "
        "storage.s3.anonymous: true (or AWS_NO_SIGN_REQUEST=YES)\n"
    )
    gate.seen.clear()
    assert lint(moto_s3.uri, config=config_of(tmp_path, anonymous=True)) == 0
    assert lint(moto_s3.uri, config=config_of(tmp_path, anonymous=[moto_s3.bucket])) == 0
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert lint(moto_s3.uri) == 0
    assert gate.seen and not any("authorization" in seen.headers for seen in gate.seen)
    capsys.readouterr()
    assert lint("s3://anonymous@bucket") == 2
    assert capsys.readouterr().err.endswith(
        "s3://anonymous@...: wanted s3://BUCKET/KEY; that no keys are used is a setting: storage.s3.anonymous: true, "
        "or a list of such buckets (or AWS_NO_SIGN_REQUEST=YES)\n"
    )
