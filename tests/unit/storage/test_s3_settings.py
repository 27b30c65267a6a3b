"""storage.s3: which setting wins, what travels, what it changes of a client, and that it decides no label."""

import json
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.loaders import create_loader
from support.s3_servers import S3Endpoint, set_variables

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.config.storage import S3Config
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3 import settings as s3_settings
from m2f_batch.storage.s3.client import new_client
from m2f_batch.storage.s3.faults import s3_fault, s3_place_fault
from m2f_batch.storage.store import Denied, StoreUnavailable, Unreachable
from m2f_batch.submit.jobs import runtime_environment, segment_job

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

SERVICES = create_loader()


def asked_of(client: Any, bucket: str = "photos") -> str:
    """The address of a GET."""
    seen: list[str] = []

    def stop(request: Any, **_: Any) -> None:
        seen.append(request.url)
        raise InterruptedError

    client.meta.events.register("before-send.s3", stop)
    with pytest.raises(InterruptedError):
        client.get_object(Bucket=bucket, Key="a.jpg")
    return seen[0]


def plain_client() -> Any:
    """boto3's own, with the JSON that describes its services read once for all tests: the most of what one costs."""
    core = botocore.session.Session()
    core.register_component("data_loader", SERVICES)
    return boto3.session.Session(botocore_session=core).client("s3")


def config(*settings: str) -> SegmentConfig:
    """A segment config with ``storage.s3``."""
    overrides = [f"storage.s3.{setting}" for setting in settings]
    places = {"input.uri": "s3://b/in", "output.uri": "s3://b/out", "model.uri": "s3://b/m"}
    return load_config(SegmentConfig, overrides=overrides, flags=places)


def test_clients_share_what_is_known_of_the_service_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(KEYS, monkeypatch)
    one = new_client("one")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    other = new_client("two")
    assert one.meta.service_model.metadata is other.meta.service_model.metadata
    assert (one.meta.region_name, other.meta.region_name) == ("us-east-1", "eu-west-2")
    # a folder of one's own descriptions is another loader
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    assert new_client("three").meta.service_model.metadata is not one.meta.service_model.metadata


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://[::1]:9000", "https://minio.example.com", None])
@pytest.mark.parametrize("style", [None, "virtual", "path", "auto"])
def test_addresses_are_those_of_plain_boto3(
    endpoint: str | None, style: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing of ours set, ~/.aws/config and boto3 decide; the key decides as the same word in that file does."""
    file = tmp_path / "config"
    file.write_text(f"[default]\ns3 =\n    addressing_style = {style}\n" if style else "")
    set_variables(
        KEYS | {"AWS_CONFIG_FILE": str(file)} | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}), monkeypatch
    )
    plain = asked_of(plain_client())
    assert asked_of(new_client("photos")) == plain
    if style is not None:
        file.write_text("[default]\ns3 =\n    addressing_style = path\n")
        with s3_settings.using(S3Config(addressing_style=style)):  # type: ignore[arg-type]  # a text from a table
            assert asked_of(new_client("photos")) == plain
    if endpoint == "http://127.0.0.1:9000" and style is None:
        assert plain == "http://127.0.0.1:9000/photos/a.jpg"


def test_the_users_own_checksum_setting_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said").write_text("[default]\nrequest_checksum_calculation = when_supported\n")
    (tmp_path / "endpoint").write_text("[default]\nendpoint_url = http://127.0.0.1:9000\n")
    server = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}
    for variables, expected in (
        ({}, "when_supported"),
        (server, "when_required"),
        ({"AWS_CONFIG_FILE": str(tmp_path / "endpoint")}, "when_required"),
        (server | {"AWS_CONFIG_FILE": str(tmp_path / "said")}, "when_supported"),
        (server | {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}, "when_supported"),
    ):
        set_variables(KEYS | variables, monkeypatch)
        assert new_client().meta.config.request_checksum_calculation == expected, variables


def test_which_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables({}, monkeypatch)
    assert s3_settings.current() == S3Config()
    for style, found in (("YES", "virtual"), ("false", "path"), ("", None)):
        monkeypatch.setenv(s3_settings.STYLE, style)
        assert s3_settings.current().addressing_style == found
        with s3_settings.using(S3Config(addressing_style="auto")):
            assert s3_settings.current().addressing_style == "auto"
    monkeypatch.setenv(s3_settings.UNSIGNED, "1")
    assert s3_settings.is_anonymous("any")
    with s3_settings.using(S3Config(anonymous=("open",))):
        assert s3_settings.is_anonymous("open") and not s3_settings.is_anonymous("own")
    with s3_settings.using(S3Config(anonymous=False)):
        assert not s3_settings.is_anonymous("any"), "said, where the variable says otherwise"
    with s3_settings.using(S3Config(request_payer="requester")):
        assert s3_settings.current() == S3Config(request_payer="requester"), "who pays is known by keys"
    monkeypatch.setenv(s3_settings.PAYER, "requester")
    assert s3_settings.current() == S3Config(anonymous=True), "of two variables the one that costs nothing"
    with s3_settings.using(S3Config(anonymous=("open",))):
        assert s3_settings.current() == S3Config(anonymous=("open",), request_payer="requester")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (s3_settings.STYLE, "virtual", "YES, NO"),
        (s3_settings.UNSIGNED, "maybe", "YES, NO"),
        (s3_settings.PAYER, "owner", "requester"),
    ],
)
def test_a_wrong_variable(name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables({name: value}, monkeypatch)
    for act in (s3_settings.current, lambda: open_store("s3://bucket")):
        with pytest.raises(UsageError) as caught:
            act()
        assert str(caught.value) == f"{name}: {value!r} is not known; allowed: {allowed}"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("addressing_style=host", "storage.s3.addressing_style: 'host' is not allowed"),
        ("request_payer=true", "storage.s3.request_payer: True is not allowed"),
        ("anonymous=[s3://open/]", "storage.s3.anonymous: ['s3://open/'] is not allowed"),
        ("anonymus=true", "storage.s3.anonymus: unknown key (value True); did you mean storage.s3.anonymous?"),
    ],
)
def test_wrong_keys(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(setting)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_nobody_pays_without_keys() -> None:
    with pytest.raises(UsageError) as caught:
        config("request_payer=requester", "anonymous=true")
    assert str(caught.value) == (
        "storage.s3.request_payer: 'requester' does not apply to storage.s3.anonymous true: who pays is known by keys"
    )


def test_what_workers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the job's settings, and no keys; a worker of a worker knows them, too."""
    from m2f_batch.ray_session.session import _environment

    set_variables({}, monkeypatch)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    settings = S3Config(addressing_style="virtual", anonymous=("open",))
    with s3_settings.using(settings):
        for is_local in (True, False):
            told = _environment(is_local=is_local)[s3_settings.OF_DRIVER]
            assert json.loads(told) == {"addressing_style": "virtual", "anonymous": ["open"]}
    assert s3_settings.OF_DRIVER not in _environment(is_local=True)
    monkeypatch.setenv(s3_settings.OF_DRIVER, told)
    assert s3_settings.current() == settings and s3_settings.environment() == {s3_settings.OF_DRIVER: told}
    monkeypatch.delenv(s3_settings.OF_DRIVER)
    inherited = {"runtime_env": {"env_vars": {s3_settings.OF_DRIVER: told}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(inherited))
    with pytest.raises(UsageError, match=f"^{s3_settings.OF_DRIVER}: is this program's own"):
        _environment(is_local=False)


def test_what_submit_sends() -> None:
    import yaml

    job = segment_job(config("request_payer=requester", "anonymous=[open]"))
    assert job.config is not None
    assert yaml.safe_load(job.config)["storage"] == {"s3": {"request_payer": "requester", "anonymous": ["open"]}}
    variables = {"AWS_REQUEST_PAYER": "requester", "AWS_NO_SIGN_REQUEST": "YES", "AWS_VIRTUAL_HOSTING": "NO"}
    assert variables.items() <= runtime_environment(variables | {"AWS_ACCESS_KEY_ID": "AKIA"}).items()


def test_every_job_with_places_has_the_keys_and_run_json_keeps_them() -> None:
    assert SegmentConfig.model_fields["storage"].annotation is FinetuneConfig.model_fields["storage"].annotation
    of_run = config("anonymous=[open]").model_dump(mode="json")
    assert s3_settings.recorded(of_run) == S3Config(anonymous=("open",))
    assert s3_settings.recorded({}) == s3_settings.recorded({"storage": {}}) == S3Config()


def test_stores_of_other_settings_are_other_stores(moto_s3: S3Endpoint) -> None:
    before = open_store(moto_s3.uri)
    with s3_settings.using(S3Config(addressing_style="path")):
        assert open_store(moto_s3.uri) is not before
    assert open_store(moto_s3.uri) is before


def test_a_public_bucket_of_ceph(ceph_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_s3.put({"a.jpg": b"x", "secret.jpg": b"y"})
    client = ceph_s3.client()
    for key, acl in (("a.jpg", "public-read"), ("secret.jpg", "private")):
        client.put_object_acl(Bucket=ceph_s3.bucket, Key=key, ACL=acl)
    keyless = {name: value for name, value in ceph_s3.variables.items() if "KEY" not in name}
    set_variables(keyless, monkeypatch)
    with s3_settings.using(S3Config(anonymous=True)):
        store = open_store(ceph_s3.uri)
        assert store.read(f"{ceph_s3.uri}/a.jpg") == b"x", "objects may be public where the bucket is not"
        with pytest.raises(Denied, match=r"access denied to who asks without keys \(storage.s3.anonymous"):
            store.read(f"{ceph_s3.uri}/secret.jpg")
        with pytest.raises(StoreUnavailable, match="access denied to who asks without keys"):
            store.write(f"{ceph_s3.uri}/new.jpg", b"z")
        client.put_bucket_acl(Bucket=ceph_s3.bucket, ACL="public-read")
        assert {entry.uri for entry in store.list(ceph_s3.uri)} == {
            f"{ceph_s3.uri}/{k}" for k in ("a.jpg", "secret.jpg")
        }


def test_what_refusals_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore import exceptions as boto

    set_variables({}, monkeypatch)
    uri = "s3://photos/a.jpg"
    reply = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    denied = boto.ClientError(reply, "ListObjectsV2")
    assert str(s3_fault(uri, denied)) == f"{uri}: access denied", "of one object, where others may be read"
    assert "requester-pays bucket wants storage.s3.request_payer" in str(s3_place_fault(uri, denied))
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert str(s3_place_fault(uri, denied)) == (
        f"{uri}: access denied (to the requester who pays, too; "
        "a public bucket storage.s3.anonymous: true (AWS_NO_SIGN_REQUEST=YES))"
    )
    for code in ("SecondLevelDomainForbidden", "PathStyleDomainForbidden"):
        reply = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        fault = s3_fault(uri, boto.ClientError(reply, "GetObject"))
        assert isinstance(fault, StoreUnavailable) and "storage.s3.addressing_style: virtual" in str(fault)
    away = s3_fault(uri, boto.EndpointConnectionError(endpoint_url="http://photos.minio:9000/a.jpg"))
    assert isinstance(away, Unreachable) and "storage.s3.addressing_style: path" in str(away)
    for url in ("http://minio:9000/photos", "https://photos.s3.eu-west-1.amazonaws.com/a.jpg"):
        assert str(s3_fault(uri, boto.EndpointConnectionError(endpoint_url=url))).endswith(
            "AWS_ENDPOINT_URL and the network"
        )


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("s3://b/lists", "../in//dbl.jpg", "s3://b/in//dbl.jpg"),
        ("s3://b/lists", "./in//dbl.jpg", "s3://b/lists/in//dbl.jpg"),
        ("s3://b/a//b", "../c.jpg", "s3://b/a//c.jpg"),
        ("s3://b/a//", "../c.jpg", "s3://b/a/c.jpg"),
        ("s3://b/in//", "c.jpg", "s3://b/in//c.jpg"),
        ("s3://b", "c//d.jpg", "s3://b/c//d.jpg"),
        ("s3://b/a", "../../c.jpg", "s3://b/../c.jpg"),
        ("/data/a", "../in//c.jpg", "/data/in/c.jpg"),
    ],
)
def test_names_in_manifests_keep_their_empty_folders(folder: str, name: str, expected: str) -> None:
    """Case S3-b: '//' in a key is a folder without name, whatever dots stand before it."""
    assert uris.join(folder, name) == expected


@pytest.mark.parametrize(
    "key", ["a//list.csv", "/list.csv", "a/list.csv", "list.csv", "a/b//c//list.csv", "//list.csv"]
)
def test_what_lies_beside_a_manifest(key: str) -> None:
    manifest = f"s3://b/{key}"
    beside = uris.join(uris.parent(manifest), "x.jpg")
    assert beside == f"s3://b/{key.removesuffix('list.csv')}x.jpg"
    assert uris.below(uris.parent(manifest), beside) == "x.jpg"
