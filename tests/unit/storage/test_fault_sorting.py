"""What a failed S3 request is wrong for, by the words of AWS, Ceph and MinIO."""

import hashlib
import ssl
from datetime import timedelta
from types import SimpleNamespace

import pytest
import urllib3
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from pyarrow.fs import GcsFileSystem
from support.s3_servers import set_variables

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.storage.arrow import file_fault, open_store
from m2f_batch.storage.s3.client import new_client
from m2f_batch.storage.s3.faults import is_doubtful, is_whole, s3_fault
from m2f_batch.storage.store import Denied, NotFound, StoreUnavailable, Unreachable, Unreadable

URI = "s3://bucket/a.jpg"


def _reply(status: int, code: str) -> boto.ClientError:
    return boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("kind", "replies"),
    [
        (TransientError, [(503, "SlowDown"), (500, "InternalError"), (502, "502"), (504, "504"), (429, "429")]),
        (TransientError, [(400, "RequestTimeout"), (409, "OperationAborted"), (409, "ConditionalRequestConflict")]),
        (TransientError, [(403, "RequestThrottled"), (404, "NoSuchUpload"), (400, "BadDigest"), (408, "408")]),
        (NotFound, [(404, "NoSuchKey"), (404, "404"), (404, "NoSuchVersion")]),
        (Denied, [(403, "AccessDenied"), (403, "403"), (403, "Forbidden")]),
        (Unreadable, [(403, "InvalidObjectState"), (405, "MethodNotAllowed"), (400, "KeyTooLongError")]),
        (StoreUnavailable, [(404, "NoSuchBucket"), (400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (401, "401")]),
        (StoreUnavailable, [(403, "SignatureDoesNotMatch"), (403, "RequestTimeTooSkewed"), (403, "UserSuspended")]),
        (StoreUnavailable, [(301, "PermanentRedirect"), (507, "XMinioStorageFull"), (501, "NotImplemented")]),
    ],
)
def test_replies(kind: type[Exception], replies: list[tuple[int, str]]) -> None:
    for status, code in replies:
        fault = s3_fault(URI, _reply(status, code))
        assert type(fault) is kind, (status, code, fault)
        assert str(fault).startswith(f"{URI}: ")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (TransientError, boto.ReadTimeoutError(endpoint_url="http://host")),
        (TransientError, boto.ConnectionClosedError(endpoint_url="http://host")),
        (TransientError, boto.ResponseStreamingError(error="reset")),
        (TransientError, boto.IncompleteReadError(actual_bytes=1, expected_bytes=2)),
        (TransientError, ResponseParserError("Unable to parse response (no element found), invalid XML received")),
        (TransientError, urllib3.exceptions.SSLError(ssl.SSLEOFError("EOF in violation of protocol"))),
        (TransientError, ConnectionResetError(104, "reset")),
        (Unreachable, boto.EndpointConnectionError(endpoint_url="http://host")),
        (Unreachable, boto.ConnectTimeoutError(endpoint_url="http://host")),
        (StoreUnavailable, boto.NoCredentialsError()),
    ],
)
def test_errors_of_the_client(kind: type[Exception], error: Exception) -> None:
    fault = s3_fault(URI, error)
    assert type(fault) is kind
    assert "host" not in str(fault)


GOOGLE = "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of "


@pytest.mark.parametrize(
    ("kind", "said", "wanted"),
    [
        (
            Unreachable,
            f"{GOOGLE}Could not create a OAuth2 access token to authenticate the request.",
            "CREDENTIALS=FILE",
        ),
        (Unreachable, f"{GOOGLE}PerformWork() - CURL error [6]=Could not resolve hostname)", "check the network"),
        (TransientError, f"{GOOGLE}PerformWork() - CURL error [56]=Failure when receiving data)", ": UNAVAILABLE"),
        (TransientError, f"{GOOGLE}Service Unavailable)", ": UNAVAILABLE"),
        (StoreUnavailable, "google::cloud::Status(UNAUTHENTICATED: Anonymous caller)", "CREDENTIALS=FILE"),
        (Denied, "google::cloud::Status(PERMISSION_DENIED: no access)", "permission denied"),
        (TransientError, "CURL error [6]=Could not resolve hostname", ": OSError"),
    ],
)
def test_errors_of_googles_client(kind: type[Exception], said: str, wanted: str) -> None:
    fault = file_fault("gs://bucket/a.jpg", OSError(said))
    assert type(fault) is kind
    assert str(fault).startswith("gs://bucket/a.jpg: ") and wanted in str(fault)


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_googles_client_gives_up_in_time(scheme: str) -> None:
    files, limited = open_store(scheme, "bucket")._files, {"retry_time_limit": timedelta(seconds=20)}
    assert files == GcsFileSystem(default_bucket_location="", **limited)
    assert files != GcsFileSystem(default_bucket_location="")


def test_a_bug_is_none_of_a_requests_faults() -> None:
    assert s3_fault(URI, KeyError("ETag")) is None


def test_what_may_be_about_more_than_one_object() -> None:
    doubtful = [(403, "AccessDenied"), (403, "403"), (404, "404"), (404, "")]
    assert all(is_doubtful(_reply(*reply)) for reply in doubtful)
    certain = [(404, "NoSuchKey"), (404, "NoSuchBucket"), (403, "InvalidObjectState"), (400, "ExpiredToken")]
    assert not any(is_doubtful(_reply(*reply)) for reply in certain)


def test_bytes_that_do_not_fit_their_etag() -> None:
    etag = f'"{hashlib.md5(b"pixels").hexdigest()}"'
    assert is_whole(b"pixels", {"ETag": etag, "ServerSideEncryption": "AES256"})
    assert not is_whole(b"pix", {"ETag": etag})
    assert is_whole(b"pix", {"ETag": etag, "ServerSideEncryption": "aws:kms"})
    assert is_whole(b"pix", {"ETag": etag, "SSECustomerAlgorithm": "AES256"})
    assert is_whole(b"pix", {"ETag": f'"{etag[1:-1]}-2"'})
    assert is_whole(b"pix", {"ETag": '"v1"'})


def test_the_clients_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables({"AWS_DEFAULT_REGION": "us-east-1"}, monkeypatch)
    monkeypatch.delenv("M2F_BATCH_S3_TIMEOUT", raising=False)
    config = new_client().meta.config
    assert (config.read_timeout, config.retries["total_max_attempts"]) == (20.0, 2)
    monkeypatch.setenv("M2F_BATCH_S3_TIMEOUT", "1.5")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    config = new_client().meta.config
    assert (config.read_timeout, config.retries["total_max_attempts"]) == (1.5, 7)


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan"])
def test_a_wrong_time_limit(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables({"AWS_DEFAULT_REGION": "us-east-1"}, monkeypatch)
    monkeypatch.setenv("M2F_BATCH_S3_TIMEOUT", wrong)
    with pytest.raises(UsageError, match="M2F_BATCH_S3_TIMEOUT"):
        new_client()


def test_a_hub_that_cannot_be_reached_may_answer_later() -> None:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's

    fault = file_fault("hf://datasets/a/b", HTTPError("[SSL] no trust\nsecond line"))
    assert isinstance(fault, TransientError)
    assert str(fault) == "hf://datasets/a/b: HTTPError: the hub cannot be reached: [SSL] no trust"
    assert str(file_fault("hf://datasets/a/b", HTTPError(""))).endswith("reached")
    assert file_fault("hf://datasets/a/b", KeyError("x")) is None


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (403, "GatedRepoError", Denied),
        (401, "RepositoryNotFoundError", Denied),
        (403, "HfHubHTTPError", Denied),
        (404, "RepositoryNotFoundError", NotFound),
        (400, "BadRequestError", Unreadable),
        (429, "HfHubHTTPError", TransientError),
        (503, "HfHubHTTPError", TransientError),
    ],
)
def test_a_hub_that_refuses(status: int, name: str, kind: type[Exception]) -> None:
    from huggingface_hub import errors

    error = getattr(errors, name)(
        "Client Error. (Request ID: 1)", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )
    fault = file_fault("hf://datasets/a/b", error)
    assert type(fault) is kind and f"HTTP {status}" in str(fault) and "Request ID" not in str(fault)
