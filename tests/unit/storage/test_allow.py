"""The allow-lists: what lies in them, and that no store, listing, model or worker gets past them."""

import json
from contextlib import ExitStack

import pytest

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.storage import allow, uris
from m2f_batch.storage.allow import NotAllowed, check, environment, is_allowed
from m2f_batch.storage.places import open_store


@pytest.fixture(autouse=True)
def no_lists(monkeypatch):
    monkeypatch.delenv(allow.OF_MACHINE, raising=False)
    monkeypatch.delenv(allow.OF_DRIVER, raising=False)


@pytest.fixture
def confine():
    """``allow.confine`` for the rest of a test, or up to the next."""
    with ExitStack() as stack:
        yield lambda entries, places: stack.enter_context(allow.confine(entries, places))


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        (
            "s3://b/images/",
            ["s3://b/images/x.jpg", "s3://b/images//x", "S3://b/images/a", "s3://b/images", "s3://b/images/%2e%2e/x"],
            [
                *("s3://b/images-2/x", "s3://b/image", "s3://b/Images/x", "s3://b", "s3://c/images/x"),
                *("s3://b/images/../x", "s3://b/images/./x", "s3://b//images/x", "s3://b/%69mages/x"),
                *("gs://b/images/x", "/b/images/x", "s3://b.evil/images/x", "hf://b/images/x"),
            ],
        ),
        ("s3://b", ["s3://b/x", "s3://b", "s3://b/"], ["s3://b2/x", "s3://b/../c/x"]),
        ("s3://", ["s3://b/x", "s3://any/x"], ["gs://b/x", "/x", "abfs://c@169.254.169.254/latest", "hf://a/b"]),
        ("gs://anonymous@b/x", ["gs://anonymous@b/x/y"], ["gs://b/x/y", "gs://anonymous@b.c/x/y"]),
        ("hf://owner/", ["hf://owner/name"], ["hf://owner2/name", "hf://datasets/owner/name"]),
        ("/", ["/etc/passwd", "file:///etc"], ["s3://b/x"]),
    ],
)
def test_what_lies_below_an_entry(entry, inside, outside, confine):
    confine([entry], {})
    assert [uri for uri in inside if not is_allowed(uri)] == []
    assert [uri for uri in outside if is_allowed(uri)] == []
    for uri in outside:
        with pytest.raises(NotAllowed, match=r"outside storage\.allow; allowed: "):
            check(uri)


def test_a_place_must_lie_in_every_list(monkeypatch, confine):
    monkeypatch.setenv(allow.OF_MACHINE, "s3://b/, gs://c")
    assert is_allowed("s3://b/x") and is_allowed("gs://c/x") and not is_allowed("s3://c/x")
    confine(["s3://"], {})
    assert is_allowed("s3://b/x") and not is_allowed("gs://c/x")
    with pytest.raises(NotAllowed, match="M2F_BATCH_ALLOW; allowed: s3://b, gs://c"):
        check("s3://c/x")
    # what workers are told holds the driver's machine, too; they keep to their own list besides
    told = environment()
    confine(None, {})
    monkeypatch.setenv(allow.OF_MACHINE, "s3://b/only/")
    monkeypatch.setenv(*next(iter(told.items())))
    assert is_allowed("s3://b/only/x") and not is_allowed("s3://b/x") and not is_allowed("gs://c/x")
    assert json.loads(told[allow.OF_DRIVER]) == [
        ["storage.allow", ["s3://"]],
        ["M2F_BATCH_ALLOW", ["s3://b", "gs://c"]],
    ]
    monkeypatch.delenv(allow.OF_MACHINE)
    monkeypatch.delenv(allow.OF_DRIVER)
    assert is_allowed("anything") and environment() == {} and not allow.is_confined()


@pytest.mark.parametrize(
    "value",
    ["", " , ", "photos", "s3://b relative/path", "s3://a@b/", "s3://b/*", "s3://b/../c", "http://", "s3+x://b"],
)
def test_a_wrong_variable_lets_nothing_pass(value, monkeypatch):
    monkeypatch.setenv(allow.OF_MACHINE, value)
    with pytest.raises(UsageError, match=r"^M2F_BATCH_ALLOW: "):
        open_store("/etc/passwd")


@pytest.mark.parametrize("value", ["[]", "s3://b", "['']", "[1]", "{}"])
def test_a_wrong_key_is_refused(value):
    import yaml

    tree = {
        "input": {"uri": "a"},
        "model": {"uri": "b"},
        "output": {"uri": "c"},
        "storage": {"allow": yaml.safe_load(value)},
    }
    with pytest.raises(UsageError, match=r"^storage\.allow"):
        check_config(SegmentConfig, tree)


@pytest.mark.parametrize(
    "entry", ["s3://key:secret@b/", "s3://b/*", "gs://b?endpoint_override=x", "s3://b/a/../c", "\0"]
)
def test_a_wrong_entry_is_refused(entry, confine):
    with pytest.raises(UsageError, match=r"^storage\.allow: ") as caught:
        confine([entry], {})
    assert "secret" not in str(caught.value).removeprefix(f"storage.allow: {entry!r}")


@pytest.mark.parametrize(
    ("query", "is_signed"),
    [
        *((query, False) for query in ("sig=12", "a&signature=none", "X-Amz-Signature=ab", "session_token=3", "sig=")),
        *((query, False) for query in ("access_key=", "AWSAccessKeyId=1", "v=2&size=large", "=", "signed=" + "a" * 64)),
        *((f"X-{of}-Signature={'0f3c' * 16}", True) for of in ("Amz", "Goog", "amz")),
        ("X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261121%2Fus-east-1", True),
        ("x-amz-security-token=IQoJb3JpZ2luX2VjEBYaCXVz", True),
        ("AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1", True),
        ("Expires=1&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv4%3D", True),
        ("sp=r&sig=c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJlc2k%3D", True),
        ("access_key=minioadmin&secret_key=minioadmin", True),
    ],
)
def test_keys_may_hold_what_begins_like_a_signature(query, is_signed, tmp_path):
    names = [f"s3://b/photo.jpg?{query}", f"gs://b/a?x=1&{query}"]
    for name in names:
        if is_signed:
            with pytest.raises(UsageError, match="holds a signature or a key") as caught:
                uris.join("/lists", name)
            assert query not in str(caught.value)
        else:
            assert uris.join("/lists", name) == name
