"""Kinds of stores: what their records say, and one that a test adds by one file and nothing else."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

from m2f_batch import backends
from m2f_batch.errors import UsageError
from m2f_batch.inputs.listing import list_input
from m2f_batch.messages import masking
from m2f_batch.ray_session.forwarded import endpoints, forwarded, forwarded_names
from m2f_batch.storage import allow, uris
from m2f_batch.storage import backends as folder
from m2f_batch.storage.places import open_store, stat_many, writable_file

KEY = "a-long-secret-key"
CACHES = (
    *(backends.all_backends, backends._by_scheme),
    *(masking.secret_variables, masking.secret_file_variables, masking._patterns),
)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of ``toy://box``, a store that this process knows by one file more."""
    (tmp_path / "kinds").mkdir()
    shutil.copy(PROJECT / "tests/support/toy_store.py", tmp_path / "kinds/toy.py")
    (tmp_path / "files/box").mkdir(parents=True)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "kinds")])
    monkeypatch.setenv("TOY_FOLDER", str(tmp_path / "files"))
    monkeypatch.setenv("TOY_KEY", KEY)
    for cache in CACHES:
        cache.cache_clear()
    yield tmp_path / "files/box"
    for cache in CACHES:
        cache.cache_clear()
    sys.modules.pop("m2f_batch.storage.backends.toy", None)


def test_a_toy_store_is_listed_read_and_written(box: Path) -> None:
    (box / "images").mkdir()
    for name in ("a.png", "b c%.jpg", "notes.md", ".hidden.png"):
        (box / "images" / name).write_bytes(b"x")
    table = list_input("toy://box/images").table
    assert table["uri"].to_pylist() == ["toy://box/images/a.png", "toy://box/images/b c%.jpg"]
    assert open_store("toy://box").read("toy://box/images/b c%.jpg") == b"x"
    place = writable_file("toy://box/out/coco.json", "DEST")
    place.store.write(place.uri, b"{}")
    assert (box / "out/coco.json").read_bytes() == b"{}"
    here = str(box / "images/a.png")
    sizes = [entry and entry.size for entry in stat_many(["toy://box/none", here, "toy://box/out/coco.json"])]
    assert sizes == [None, 1, 2]


def test_its_own_rules_hold_for_its_uris(box: Path) -> None:
    with pytest.raises(UsageError, match=r"^toy://\.\.\.: wanted toy://BOX/KEY, BOX of small letters$"):
        uris.parse("toy://Box9/a")
    with pytest.raises(UsageError, match=r"no scheme of files that can be opened; write toy://$"):
        uris.parse("toys://box/a")
    with pytest.raises(UsageError, match=r"allowed: abfs, .*, s3, toy, viewfs, and local paths$"):
        uris.parse("ftp://box/a")
    with allow.confine(["toy://box/images/"], {}):
        assert allow.is_allowed("toy://box/images/a.png") and not allow.is_allowed("toy://box/labels")
    with allow.confine(["toy://"], {}):
        assert allow.is_allowed("toy://box/labels") and not allow.is_allowed("s3://box/labels")


def test_its_variables_travel_and_its_secrets_do_not(box: Path) -> None:
    environ = {"TOY_FOLDER": "/f", "TOY_SERVER": "https://toys", "TOY_KEY": KEY, "AWS_REGION": "eu"}
    assert forwarded(environ) == {"TOY_FOLDER": "/f", "TOY_SERVER": "https://toys", "AWS_REGION": "eu"}
    assert endpoints(environ) == {"TOY_SERVER": "https://toys"}
    assert masking.redact(f"refused: {KEY}") == "refused: ***"
    assert masking.redact("{'TOY_KEY': 'other'}, TOY_KEY=x9", {}) == "{'TOY_KEY': '***'}, TOY_KEY=***"


def test_without_its_file_the_toy_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"^toy://\.\.\.: no scheme of files"):
        uris.parse("toy://box/a")
    assert masking.redact(f"refused: {KEY}", {"TOY_KEY": KEY}) == f"refused: {KEY}"
    assert forwarded({"TOY_FOLDER": "/f"}) == {}


def test_every_record_can_be_used() -> None:
    schemes = [scheme for backend in backends.all_backends() for scheme in backend.schemes]
    assert len(schemes) == len({*schemes}) and {"", "file", "s3", "gs", "abfs", "hf", "http", "https"} <= {*schemes}
    for backend in backends.all_backends():
        assert callable(backends.load(backend.opener)), backend
        assert not backend.settings or hash(backends.load(backend.settings)()) is not None
        assert {*backend.endpoints} <= {*backend.forwarded}, backend
        assert not {*backend.secrets, *backend.secret_files} & {*backend.forwarded}, "keys belong to the nodes"
        assert backend.is_writable or backend.name, "a message names it"
        assert not backend.is_web or backend.ports.keys() == {*backend.schemes}


def test_secrets_and_forwarded_variables_are_these() -> None:
    """They stand here once more, so that a line that a record loses is a secret that this test misses."""
    assert {*masking.secret_variables()} == {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
        *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN"),
        *("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET"),
    }
    assert {*masking.secret_file_variables()} == {
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *("HF_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH"),
    }
    known = backends.all_backends()
    assert {*masking.RAY_SECRET_FILES_IN}.union(*(each.secret_files_in for each in known)) == {
        ("HF_HOME", "token"),
        ("XDG_CACHE_HOME", "huggingface/token"),
        ("HOME", ".cache/huggingface/token"),
        ("HOME", ".ray/auth_token"),
    }
    assert {name for each in known for name, _ in each.secret_parts} == {"AZURE_STORAGE_CONNECTION_STRING"}
    assert {pair for each in known for pair in each.profiles} == {
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        ("AWS_CONFIG_FILE", ".aws/config"),
    }
    assert {key for each in known for key in each.profile_keys} == {
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_security_token"),
    }
    assert {*forwarded_names()} == {
        *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_VIRTUAL_HOSTING"),
        *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_REQUEST_PAYER"),
        *("AWS_NO_SIGN_REQUEST", "M2F_BATCH_S3_TIMEOUT", "HF_HUB_OFFLINE"),
    }
    assert {name for each in known for name in each.endpoints} == {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}


def test_a_store_that_is_only_read_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = backends.Backend(schemes=("tape",), opener="", name="the archive", is_writable=False)
    monkeypatch.setattr(backends, "_by_scheme", lambda: {"tape": archive})
    with pytest.raises(UsageError, match=r"^'tape://a/b': nothing can be written to the archive; give a"):
        uris.check_written("tape://a/b")
