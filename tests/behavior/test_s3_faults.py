"""S3 that fails, by a proxy before a real server: what passes is tried again, what stays is a row, or stops the run."""

import hashlib
import json
import random
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from support import fault_proxy
from support.fault_proxy import KINDS, FaultProxy
from support.s3_servers import S3Endpoint, set_variables
from support.stores import reset_stores

from m2f_batch.errors import ImageError
from m2f_batch.inputs.fetch import fetch, fetch_many
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries, retried
from m2f_batch.storage.store import StoreUnavailable

pytest_plugins = ["support.s3_servers"]

ONE_SERVER = pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)  # where it has little to say

TIMEOUT = 2.0  # seconds that a test waits for a byte: a busy server takes less, and stalls are longer


@pytest.fixture
def proxy(s3_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy without faults so far, which this process's stores go through."""
    with FaultProxy(s3_endpoint.variables["AWS_ENDPOINT_URL"], seed=7, stall=TIMEOUT + 0.5) as running:
        monkeypatch.setenv("M2F_BATCH_S3_TIMEOUT", str(TIMEOUT))
        set_variables({**s3_endpoint.variables, "AWS_ENDPOINT_URL": running.url}, monkeypatch)
        yield running
    reset_stores()


@pytest.fixture
def impatient(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The proxy of tests in which tries beyond those that faults make do no harm, so that half the wait will do."""
    monkeypatch.setenv("M2F_BATCH_S3_TIMEOUT", str(TIMEOUT / 2))
    reset_stores()
    return proxy


def _put(endpoint: S3Endpoint, objects: dict[str, bytes]) -> list[ImageRef]:
    """Without checksums of S3's own, which not every object has: only the ETag tells an object that is cut short."""
    config = Config(request_checksum_calculation="when_required")
    client = boto3.session.Session().client("s3", endpoint_url=endpoint.variables["AWS_ENDPOINT_URL"], config=config)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=endpoint.bucket, Key=key, Body=objects[key]), objects))
    return [ImageRef(f"{endpoint.uri}/{key}", hashlib.md5(data).hexdigest()) for key, data in objects.items()]


def _patient() -> Retries:
    return Retries(first_wait=0.05, longest_wait=1.0)


def _reason(ref: ImageRef) -> tuple[str, str, str]:
    with pytest.raises(ImageError) as caught:
        fetch(ref, _patient())
    return caught.value.stage, caught.value.reason, caught.value.message


def _deny(proxy: FaultProxy, pattern: str, status: int, code: str) -> None:
    proxy.set(rules=[{"pattern": pattern, "status": status, "code": code}])


def test_every_byte_arrives_though_every_third_request_fails(impatient: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    draw = random.Random(3)
    objects = {f"in/{number:03d}.jpg": draw.randbytes(draw.randrange(40_000)) for number in range(199)}
    refs = _put(s3_endpoint, {**objects, "in/empty.jpg": b""})
    before, retries = retried(), _patient()
    # not the HEAD that judges an object cut short: both would be made good by one retry, and this test counts
    impatient.set(rate=1 / 3, rules=[{"pattern": "*", "methods": ["HEAD"]}])
    fetched = [*fetch_many(refs, threads=16, retries=retries)]
    assert fetched == [*zip(refs, [*objects.values(), b""], strict=True)]
    injected = impatient.counts()
    assert injected.keys() == KINDS.keys() and sum(injected.values()) >= 60
    assert retried() - before >= sum(injected.values())
    assert 0 < retries.count < retried() - before


@ONE_SERVER
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_passes(kind: str, proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    data = random.Random(5).randbytes(300_000)
    [ref] = _put(s3_endpoint, {"a.jpg": data})
    proxy.set(rules=[{"pattern": "*/a.jpg", "methods": ["GET"], "kind": kind, "times": 2}])
    before = retried()
    assert fetch(ref, _patient()) == data
    assert proxy.counts() == {kind: 2}
    assert retried() - before == 2


@ONE_SERVER
@pytest.mark.parametrize("kind", ["lost", "truncated", "short"])
def test_a_listing_that_is_cut_off_is_no_listing(kind: str, proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    refs = _put(s3_endpoint, {f"in/{number}.jpg": b"x" for number in range(5)})
    proxy.set(rules=[{"pattern": "*", "query": "list-type=2", "kind": kind, "times": 3}])
    listed = _patient().run(
        lambda: sorted(entry.uri for entry in open_store(s3_endpoint.uri).list(f"{s3_endpoint.uri}/in"))
    )
    assert listed == [ref.uri for ref in refs]
    assert proxy.counts() == {kind: 3}


@ONE_SERVER
def test_what_is_wrong_with_one_object_is_its_row(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    refs = _put(s3_endpoint, {f"{name}.jpg": name.encode() for name in ("a", "denied", "gone", "frozen", "z")})
    replies = {"denied": (403, "AccessDenied"), "gone": (404, "NoSuchKey"), "frozen": (403, "InvalidObjectState")}
    rules = [{"pattern": f"*/{name}.jpg", "status": s, "code": code} for name, (s, code) in replies.items()]
    proxy.set(rules=rules)
    before = retried()
    outcomes = [outcome for _, outcome in fetch_many(refs)]
    assert outcomes[0] == b"a" and outcomes[4] == b"z"
    said = [(error.reason, error.message) for error in outcomes[1:4] if isinstance(error, ImageError)]
    assert said == [
        ("AccessDenied", f"{refs[1].uri}: access denied"),
        ("NotFound", f"{refs[2].uri}: no such object"),
        ("Unreadable", f"{refs[3].uri}: InvalidObjectState"),
    ]
    assert retried() == before
    store = open_store(s3_endpoint.uri)
    assert store.stat(refs[2].uri) is None and store.stat_many([refs[1].uri, refs[0].uri])[0] is None


@ONE_SERVER
def test_credentials_that_expire_stop_everything(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    refs = _put(s3_endpoint, {f"{number}.jpg": b"x" for number in range(4)})
    assert fetch(refs[0]) == b"x"
    for status, code in ((400, "ExpiredToken"), (403, "InvalidAccessKeyId")):
        _deny(proxy, "*", status, code)
        with pytest.raises(StoreUnavailable, match=f"{code}: check the AWS variables"):
            [*fetch_many(refs)]
        with pytest.raises(StoreUnavailable, match=code):  # HEAD: the answer has no body, and so no code
            open_store(s3_endpoint.uri).stat(refs[0].uri)
        with pytest.raises(StoreUnavailable, match=code):
            open_store(s3_endpoint.uri).write(f"{s3_endpoint.uri}/new", b"x")


def test_credentials_that_expire_where_the_server_only_says_denied(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    refs = _put(s3_endpoint, {f"{number}.jpg": b"x" for number in range(4)})
    _deny(proxy, "*", 403, "AccessDenied")
    with pytest.raises(StoreUnavailable, match="access denied, and so is the bucket by now: have the keys expired"):
        [*fetch_many(refs)]
    # keys that may read some objects and list nothing: what could not be looked at when it was listed is its row
    hint = (
        " (a requester-pays bucket wants storage.s3.request_payer: requester (AWS_REQUEST_PAYER), "
        "a public bucket storage.s3.anonymous: true (AWS_NO_SIGN_REQUEST=YES))"
    )
    assert _reason(ImageRef(refs[0].uri, "")) == ("fetch", "AccessDenied", f"{refs[0].uri}: access denied{hint}")
    _deny(proxy, "*/0.jpg", 403, "AccessDenied")
    assert _reason(refs[0]) == ("fetch", "AccessDenied", f"{refs[0].uri}: access denied")


def test_a_lost_bucket_stops_everything(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    [ref] = _put(s3_endpoint, {"a.jpg": b"x"})
    store = open_store(ref.uri)
    assert store.stat(ref.uri) is not None
    s3_endpoint.client().delete_object(Bucket=s3_endpoint.bucket, Key="a.jpg")
    assert store.stat(ref.uri) is None and _reason(ref)[1] == "NotFound"
    s3_endpoint.client().delete_bucket(Bucket=s3_endpoint.bucket)
    for act in (lambda: fetch(ref), lambda: store.stat(ref.uri), lambda: store.write(ref.uri, b"x")):
        with pytest.raises(StoreUnavailable, match="no such bucket"):
            act()


@ONE_SERVER
def test_a_404_that_s3_did_not_say(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    [ref] = _put(s3_endpoint, {"a.jpg": b"x"})
    proxy.set(rules=[{"pattern": "*/a.jpg", "status": 404, "code": "", "times": 2}])
    before = retried()
    assert fetch(ref, _patient()) == b"x"  # it is listed, so it is there
    assert retried() - before == 2
    _deny(proxy, "*", 404, "")  # a gateway that has lost its servers
    with pytest.raises(StoreUnavailable, match="404, to any request"):
        fetch(ref)


def test_a_new_object_is_ours_though_the_answer_was_lost(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    store, uri = open_store(s3_endpoint.uri), f"{s3_endpoint.uri}/lock"
    proxy.set(rules=[{"pattern": "*/lock", "methods": ["PUT"], "kind": "lost", "times": 1}])
    assert store.write_new(uri, b"ours") is True
    assert proxy.counts() == {"lost": 1} and store.read(uri) == b"ours"
    proxy.set(rules=[{"pattern": "*/lock", "methods": ["PUT"], "kind": "lost", "times": 1}])
    assert store.write_new(uri, b"theirs") is False
    assert store.read(uri) == b"ours"


@pytest.mark.parametrize("kind", ["lost", "late"])
def test_one_of_many_writers_wins_through_lost_answers(
    kind: str, impatient: FaultProxy, s3_endpoint: S3Endpoint
) -> None:
    store, uri = open_store(s3_endpoint.uri), f"{s3_endpoint.uri}/lease"
    impatient.set(kinds=[kind], rate=0.4, rules=[{"pattern": "*", "methods": ["HEAD"], "kind": "reset", "times": 3}])
    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(lambda number: _patient().run(lambda: store.write_new(uri, b"writer %d" % number)), range(8))]
    impatient.set(rate=0, rules=[])
    assert won.count(True) == 1
    assert store.read(uri) == b"writer %d" % won.index(True)


def test_a_new_object_is_ours_though_all_answers_of_a_try_were_lost(proxy: FaultProxy, s3_endpoint: S3Endpoint) -> None:
    store, uri = open_store(s3_endpoint.uri), f"{s3_endpoint.uri}/lock"
    proxy.set(rules=[{"pattern": "*/lock", "methods": ["PUT"], "kind": "lost", "times": 3}])
    assert _patient().run(lambda: store.write_new(uri, b"ours")) is True
    assert proxy.counts() == {"lost": 3}
    assert _patient().run(lambda: store.write_new(uri, b"theirs")) is False


def test_a_large_upload_whose_completion_was_lost(proxy: FaultProxy, s3_endpoint: S3Endpoint, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(9 << 20)  # more than one part
    (tmp_path / "large").write_bytes(data)
    store, uri = open_store(s3_endpoint.uri), f"{s3_endpoint.uri}/large"
    proxy.set(rules=[{"pattern": "*", "methods": ["POST"], "query": "uploadId=", "kind": "lost", "times": 2}])
    _patient().run(lambda: store.upload(tmp_path / "large", uri))
    assert store.read(uri) == data
    assert proxy.counts() == {"lost": 2}


def test_the_program(moto_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = moto_s3.variables["AWS_ENDPOINT_URL"]
    rules = json.dumps([{"pattern": "*/a.jpg", "status": 403, "code": "AccessDenied"}])
    command = [sys.executable, fault_proxy.__file__, "--upstream", upstream, "--rules", rules, "--kinds", "reset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            url = json.loads(running.stdout.readline())["endpoint"]
            set_variables({**moto_s3.variables, "AWS_ENDPOINT_URL": url}, monkeypatch)
            [ref] = _put(moto_s3, {"a.jpg": b"x"})
            assert _reason(ref)[1] == "AccessDenied"
            changed = _control(url, "PUT", {"rules": [{"pattern": "*", "kind": "lost", "times": 1}]})
            assert changed["counts"] == {"403 AccessDenied": 1} and changed["requests"] == 2  # GET, and the listing
            assert fetch(ref, _patient()) == b"x"
            with pytest.raises(urllib.error.HTTPError):
                _control(url, "PUT", {"rates": 1})
            assert _control(url, "GET")["settings"]["kinds"] == ["reset"]
        finally:
            running.terminate()
        last = json.loads(running.stdout.readlines()[-1])
    assert last == {"requests": 4, "counts": {"403 AccessDenied": 1, "lost": 1}}


def _control(url: str, method: str, settings: object = None) -> dict[str, Any]:
    body = None if settings is None else json.dumps(settings).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/__faults__", body, method=method), timeout=10) as reply:
        return json.loads(reply.read())
