"""No key leaves in a text, wherever it stands; ordinary texts stay as they are."""

import json
import random
from urllib.parse import quote

import pytest

from m2f_batch.messages.log_values import MAX_TEXT, redacted
from m2f_batch.messages.masking import MASK, redact, secret_file_variables, secret_variables

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEBYaCXVzLWVhc3QtMSJGMEQCIFexample//////////wEaDDEyMzQ1Njc4OTAxMiIM="
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2EifQ.c2lnbmF0dXJl"
# texts that are no secret's business, each with what people name files, buckets and hosts
ORDINARY = [
    "",
    "s3://bucket/key with blanks/ü.jpg",
    "s3://bucket/12:30@noon.jpg",
    "s3://bucket/a:b@c/d:e@f.png",
    "file:///data/a:b@c.jpg",
    "/data/me:you@there/x.jpg",
    "abfss://container@account.dfs.core.windows.net/path",
    "ssh://git@github.com/owner/name",
    "http://127.0.0.1:9000/bucket/me@home.jpg",
    "http://[::1]:9000/bucket/me@home.jpg",
    "endpoint http://minio:9000, owner me@example.org",
    "'http://minio:9000','me@example.org'",
    '{"endpoint":"http://minio:9000","owner":"me@example.org"}',
    "ray://head:10001",
    "https://host/a?X-Amz-Expires=60&X-Amz-Date=20261121T150405Z&versionId=abc",
    "gs://bucket/a?generation=17",
    "expired credentials: AWS_SESSION_TOKEN is not set, nor is HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY: not in the environment of this node",
    "Signature mismatch: the request's signature does not match",
    "fetch/AccessDenied: An error occurred (AccessDenied) when calling the GetObject operation: Access Denied",
    "ETag 9b2cf535f27731c974343645a3985328, sha256 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "unit 0f3e5d7c9b1a2c4e6f8091a2b3c4d5e6-00003-of-00128 by 0f3e5d7c",
    "120 of 1,000 images  3.1 images/s  4 min 44 s left  2 errors",
    "busy  fetch 12 %  decode 35 %  forward 97 %  postprocess 8 %  write 1 %",
    "SAKIAMOTO_AKIA.jpg and AKIA1234.jpg, xAKIABCDEFGHIJKLMNOPQRST",
    "hf_model_of_mine, hf_transfer",
    "facebook/mask2former-swin-large-coco-instance@0123abcd",
    "basic authorization is not supported; bearer tokens neither",
]
# (text with {} where the secret stands, a secret of that kind)
HIDING_PLACES = [
    ("s3://{}@bucket/key.jpg", "AKIDEXAMPLE:" + quote(SECRET, safe="")),
    ("s3://{}@bucket/key.jpg", "key:with/a/slash"),
    ("https://{}@host:9000/x", "me:p@ss:word"),
    ("redis://{}@host", ":onlypassword"),
    ("https://{}@host/x", "me:12345678"),
    ("two https://{}@host/x and s3://bucket/y@z", "me:hunter22"),
    ("GET 'https://b.s3.amazonaws.com/k?X-Amz-Signature={}'", "0f3c" * 16),
    ("https://b/k?x-amz-security-token={}&x=1", quote(TOKEN, safe="")),
    ("https://b/k?a=1&amp;X-Amz-Credential={}", "ABCDEFGH/20261121/us-east-1/s3/aws4_request"),
    ("https://proxy/?to=https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3D{}", "0f3c" * 16),
    ("https://b/k?X-Goog-Signature={}", "0f3c" * 16),
    ("https://b/k?AWSAccessKeyId={}&Expires=1", "ABCDEFGH12345"),
    ("https://b/k?Expires=1&Signature={}", "vjbyPxybdZaNmGa%2ByT272YEAiv4%3D"),
    ("https://account.blob.core.windows.net/c/b?sp=r&sig={}", "c2lnbmF0dXJl%3D"),
    ("abfs://c@a.dfs.core.windows.net/p?account_key={}", "c2VjcmV0c2VjcmV0"),
    ("{{'x-amz-security-token': '{}', 'a': 1}}", TOKEN),
    ("X-Amz-Security-Token: {}", TOKEN),
    ("Authorization: Bearer {}", "abcdefghijklmnop"),
    ("{{'Authorization': b'Basic {}'}}", "bWU6aHVudGVyMjI="),
    ("AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature={}", "0f3c" * 16),
    ("AWS_SECRET_ACCESS_KEY={} m2f-batch segment", SECRET),
    ("aws_secret_access_key = {}", SECRET),
    ("environ({{'HF_TOKEN': '{}', 'HOME': '/root'}})", "some-token-of-mine"),
    ('{{"env_vars": {{"AWS_SESSION_TOKEN": "{}"}}}}', TOKEN),
    ("the key {} is unknown", "AKIAIOSFODNN7EXAMPLE"),
    ("<Id>{}</Id>", "ASIAIOSFODNN7EXAMPLE"),
    ("login with {}!", "hf_" + "AbCdEfGhIj" * 4),
    ("token '{}' expired", JWT),
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_stay(text):
    assert redact(text, {}) == text


@pytest.mark.parametrize(("place", "secret"), HIDING_PLACES)
def test_secrets_are_recognised_by_where_they_stand_or_what_they_look_like(place, secret):
    clean = redact(place.format(secret), {})
    assert MASK in clean
    for part in secret.split(":"):
        # the id's four letters may stay, and a password must not leave in pieces
        assert not [piece for piece in part.split("/") if len(piece) > 3 and piece in clean], clean
    before, _, after = place.format("\0").partition("\0")
    assert clean.startswith(before)
    assert clean.endswith(after)
    assert redact(clean, {}) == clean


@pytest.mark.parametrize("name", secret_variables())
def test_values_of_variables_are_masked_wherever_they_stand(name):
    environ = {name: SECRET}
    for text in (SECRET, f"a{SECRET}b", f"s3://b/{SECRET}/x", quote(SECRET, safe=""), f"'{SECRET}', {SECRET}"):
        clean = redact(text, environ)
        assert "wJalrXUtnFEMI" not in clean
        assert "EXAMPLEKEY" not in clean
        assert MASK in clean


def test_short_and_empty_values_mangle_nothing():
    environ = dict.fromkeys(secret_variables(), "test") | {"AWS_ACCESS_KEY_ID": "", "HF_TOKEN": " "}
    assert redact("a test of s3://test/tests", environ) == "a test of s3://test/tests"


@pytest.mark.parametrize("name", secret_file_variables())
def test_tokens_in_files_are_masked_and_their_replacements_too(name, tmp_path):
    path = tmp_path / "token"
    environ = {name: str(path)}
    assert redact("nothing there yet", environ) == "nothing there yet"
    for token in ("first-token-of-all", "second-token-of-all"):
        path.unlink(missing_ok=True)
        path.write_text(token + "\n")
        assert redact(f"got {token}.", environ) == f"got {MASK}."
    assert redact("got x", {name: str(tmp_path)}) == "got x"  # a directory


@pytest.mark.parametrize("seed", range(200))
def test_secrets_between_ordinary_texts(seed):
    draw = random.Random(seed)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+=-_.~%@:"
    key = "".join(draw.choices(alphabet, k=draw.randint(8, 60)))
    environ = {draw.choice(secret_variables()): key}
    place, secret = draw.choice(HIDING_PLACES)
    ordinary = draw.sample(ORDINARY, 3)
    text = f"{ordinary[0]} {key} {ordinary[1]} {place.format(secret)} {ordinary[2]}"
    clean = redact(text, environ)
    assert key not in clean
    assert secret not in clean
    assert all(each in clean for each in ordinary)
    assert redact(clean, environ) == clean


def test_every_place_in_a_value():
    value = {
        "uris": ["s3://me:hunter22@b/x", {"deep": ("AKIAIOSFODNN7EXAMPLE", {"set me:x"})}],
        "AKIAIOSFODNN7EXAMPLE": 1,
        "aws_secret_access_key": "anything",
        "password": "",
        "token": 7,
        "path": ValueError("https://me:hunter22@host"),
        "nothing": None,
        "yes": True,
        "ratio": 0.5,
        "odd": [float("nan"), float("inf")],
    }
    clean = redacted(value, {})
    assert json.loads(json.dumps(clean, allow_nan=False)) == {
        "uris": ["s3://***:***@b/x", {"deep": ["AKIA***", ["set me:x"]]}],
        "AKIA***": 1,
        "aws_secret_access_key": MASK,
        "password": "",
        "token": 7,
        "path": "https://***:***@host",
        "nothing": None,
        "yes": True,
        "ratio": 0.5,
        "odd": ["nan", "inf"],
    }


def test_long_texts_are_cut_after_they_were_redacted():
    # the cut would go through the key, and leave a half that nobody recognises
    text = redacted("x " * (MAX_TEXT // 2 - 5) + "AKIAIOSFODNN7EXAMPLE" + " y" * 100, {})
    assert len(text) < MAX_TEXT + 50
    assert "AKIAI" not in text
    assert text.endswith("more)")


@pytest.mark.slow
def test_hostile_texts_take_linear_time():
    # each of these made a naive pattern try every end for every beginning; pytest's timeout is the limit
    for piece in ("://x:y", "://", "HF_TOKEN=", "hf_", "eyJ", "x-amz-signature ", "'HF_TOKEN': '"):
        text = piece * (200_000 // len(piece))
        assert len(redact(text, {})) > 0
