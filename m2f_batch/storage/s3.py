"""The store of S3, and of servers that speak its protocol."""

import contextlib
import itertools
import os
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.store import (
    THREADS,
    Denied,
    Entry,
    NotFound,
    ObjectError,
    Store,
    StoreUnavailable,
    Unreachable,
    Unreadable,
    faults,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


_OF_ALL = {
    *("NoSuchBucket", "InvalidBucketName", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "InvalidSecurity"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed"),
    *(
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "PermanentRedirect",
        "IllegalLocationConstraintException",
    ),
}
_PASSING = {
    "SlowDown",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "OperationAborted",
}


def new_client() -> "S3Client":
    """A client by the standard AWS variables. Raises UsageError, StoreUnavailable for those that are wrong."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    options: dict[str, Any] = {}
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options["s3"] = {"addressing_style": "path"}  # other servers rarely have a name per bucket,
        options["request_checksum_calculation"] = "when_required"  # and older ones refuse trailing checksums
    try:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or 5)},
            connect_timeout=10,  # seconds
            read_timeout=60,
            max_pool_connections=64,
            **options,
        )
        return boto3.session.Session().client("s3", config=config)  # a session of its own: the default one is not safe
    except ValueError as error:
        raise UsageError("AWS_ENDPOINT_URL must be like https://host:port, AWS_MAX_ATTEMPTS a number") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"S3: {type(error).__name__}: check the AWS variables") from error


def _s3_fault(uri: str, error: Exception) -> Exception | None:
    from botocore import exceptions as boto

    away = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
    passing = (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError, OSError)
    if isinstance(error, boto.ClientError):
        return _reply_fault(uri, _code(error), _status(error))
    if isinstance(error, away):
        return Unreachable(f"{uri}: the S3 endpoint cannot be reached; check AWS_ENDPOINT_URL and the network")
    if isinstance(error, passing):
        return TransientError(f"{uri}: {type(error).__name__}")
    if isinstance(error, boto.ParamValidationError):
        return Unreadable(f"{uri}: not a name that S3 allows")
    if isinstance(error, boto.BotoCoreError):
        return StoreUnavailable(f"{uri}: {type(error).__name__}: check the AWS variables")
    return None


def _reply_fault(uri: str, code: str, status: int) -> Exception:
    if code == "NoSuchBucket":
        return StoreUnavailable(f"{uri}: no such bucket")
    if code in _OF_ALL or status in (301, 307):
        return StoreUnavailable(f"{uri}: {code}: check the AWS variables (keys, region, endpoint)")
    if status >= 500 or status in (408, 429) or code in _PASSING:
        return TransientError(f"{uri}: {code}")
    if status == 404:
        return NotFound(f"{uri}: no such object")
    return Denied(f"{uri}: access denied") if code == "AccessDenied" else Unreadable(f"{uri}: {code}")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


class S3Store(Store):
    """Objects of S3, or of a server that speaks its protocol."""

    page_size = 1000  # keys per list request; the protocol's most

    def __init__(self, client: "S3Client") -> None:
        self._client = client

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        top = _prefix(folder) + start
        first = self._page(folder, top, Delimiter="/")
        folders = [entry["Prefix"] for entry in first.get("CommonPrefixes", [])]
        if first["IsTruncated"]:  # a folder for each image, say: one walk, 1000 keys a request, is faster then
            folders = [top]
        else:
            yield from _entries(first)
        yield from self._walk(folder, folders)

    def _walk(self, folder: str, prefixes: Iterable[str]) -> Iterator[Entry]:
        """Several prefixes at once, one page of each in memory."""
        left = iter(prefixes)
        with ThreadPoolExecutor(THREADS) as pool:
            running: deque[tuple[str, Future[Any]]] = deque()
            for prefix in itertools.islice(left, THREADS):
                running.append((prefix, pool.submit(self._page, folder, prefix)))
            while running:
                prefix, future = running.popleft()
                page = future.result()
                if page["IsTruncated"]:
                    token = page["NextContinuationToken"]
                    running.append((prefix, pool.submit(self._page, folder, prefix, ContinuationToken=token)))
                elif (following := next(left, None)) is not None:
                    running.append((following, pool.submit(self._page, folder, following)))
                yield from _entries(page)

    def _page(self, folder: str, prefix: str, **options: Any) -> Any:
        with faults(folder, _s3_fault, of_one=False):
            bucket = uris.parse(folder).authority
            return self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=self.page_size, **options)

    def is_folder(self, uri: str) -> bool:
        page = self._page(uri, _prefix(uri))  # also of the whole bucket, to see that it is there
        return bool(page["KeyCount"]) or not uris.parse(uri).path

    def stat(self, uri: str) -> Entry | None:
        if not uris.parse(uri).path:
            return None
        try:
            with faults(uri, _s3_fault):
                reply = self._head(uri)
        except NotFound:
            return None
        return Entry(uri, reply["ContentLength"], reply["ETag"].strip('"'))

    def _head(self, uri: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(**_names(uri))
        except ClientError as error:
            if _status(error) >= 500 or _status(error) == 429:
                raise
            reply = self._get(uri)  # the answer to a HEAD has no body, and so no reason; that to a GET has
            reply["Body"].close()
            return reply

    def _get(self, uri: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.get_object(**_names(uri))
        except ClientError as error:
            if _code(error) == "AccessDenied":
                self._check_keys(uri)
            raise

    def _check_keys(self, uri: str) -> None:
        """Some servers say AccessDenied to keys that have expired: raises if a list request says so too."""
        with contextlib.suppress(ObjectError), faults(uri, _s3_fault):
            self._client.list_objects_v2(Bucket=uris.parse(uri).authority, Prefix=uris.parse(uri).path, MaxKeys=1)

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with faults(uri, _s3_fault):
            if not uris.parse(uri).path:
                raise Unreadable(f"{uris.shown(uri)}: names a bucket, not an object")
            reply = self._get(uri)
            with contextlib.closing(reply["Body"]) as body:
                data = body.read()
        if len(data) != reply["ContentLength"]:
            raise TransientError(f"{uris.shown(uri)}: {len(data)} of {reply['ContentLength']} bytes came")
        return data, Entry(uri, len(data), reply["ETag"].strip('"'))

    def write(self, uri: str, data: bytes) -> None:
        with faults(uri, _s3_fault, of_one=False):
            self._client.put_object(**_names(uri), Body=data)

    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        with faults(uri, _s3_fault, of_one=False), open(file, "rb") as source:
            self._client.upload_fileobj(source, **_names(uri))  # in parts, where it is large

    def write_new(self, uri: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        writer = {"writer": uuid.uuid4().hex}
        with faults(uri, _s3_fault, of_one=False):
            try:
                self._client.put_object(**_names(uri), Body=data, IfNoneMatch="*", Metadata=writer)
            except ClientError as error:
                if _status(error) not in (409, 412):
                    raise
                return self._is_written_by(uri, writer)
        return True

    def _is_written_by(self, uri: str, writer: dict[str, str]) -> bool:
        """Ours after all, where the client sent it twice because the first answer was lost."""
        from botocore.exceptions import ClientError

        try:
            return bool(self._client.head_object(**_names(uri))["Metadata"] == writer)
        except ClientError as error:
            if _status(error) == 404:  # that other write failed, or was undone
                raise TransientError(f"{uris.shown(uri)}: other writers in the way") from error
            raise

    def _delete(self, uri: str) -> None:
        with faults(uri, _s3_fault, of_one=False):
            self._client.delete_object(**_names(uri))


def _names(uri: str) -> dict[str, Any]:
    place = uris.parse(uri)
    return {"Bucket": place.authority, "Key": place.path}


def _prefix(folder: str) -> str:
    key = uris.parse(folder).path
    return key if not key or key.endswith("/") else f"{key}/"


def _entries(page: Any) -> Iterator[Entry]:
    for found in page.get("Contents", []):
        if not found["Key"].endswith("/"):  # such a key is a console's folder
            yield Entry(f"s3://{page['Name']}/{found['Key']}", found["Size"], found["ETag"].strip('"'))
