"""Reads and writes the objects of S3, and of servers that speak its protocol."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from m2f_batch.errors import TransientError
from m2f_batch.storage import uris
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.s3 import columns, settings
from m2f_batch.storage.s3.client import new_client
from m2f_batch.storage.s3.faults import Refused, is_doubtful, is_whole
from m2f_batch.storage.s3.faults import code_of as _code
from m2f_batch.storage.s3.faults import s3_fault as _s3_fault
from m2f_batch.storage.s3.faults import s3_place_fault as _s3_place_fault
from m2f_batch.storage.s3.faults import status_of as _status
from m2f_batch.storage.s3.pages import sizes_and_etags, walk
from m2f_batch.storage.store import (
    Denied,
    Entry,
    NotFound,
    ObjectError,
    Page,
    Store,
    StoreUnavailable,
    Unreadable,
    faults,
    threaded,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# of a download: one connection brings some 80 MB/s, and a GPU waits for its model. At most 8 MB are held at a time
PART_BYTES = 2**24
PARTS_AT_ONCE = 8
CHUNK_BYTES = 2**20


class _NoParts(Exception):
    """Raised where the server sends whole objects only."""


def open_store(scheme: str, authority: str) -> "S3Store":
    """Returns the store of a bucket. Raises UsageError, StoreUnavailable for variables that are wrong."""
    return S3Store(new_client(authority))


class S3Store(Store):
    """Holds the objects of a bucket of S3, or of a server that speaks its protocol."""

    page_size = 1000  # keys per list request: the protocol's most

    def __init__(self, client: "S3Client") -> None:
        self._client, self._nonce = client, uuid.uuid4().hex

    def pages(self, folder: str, start: str = "") -> Iterator[Page]:
        bucket, top = uris.parse(folder).authority, _prefix(folder) + start
        first = self._page(folder, top)
        walked = walk(partial(self._patient_page, folder), top, first) if first["IsTruncated"] else None
        for keys, sizes, etags in walked or [columns.columns(first)]:
            page = Page([f"s3://{bucket}/{key}" for key in keys], sizes, etags)
            yield page.chosen([not key.endswith("/") for key in keys])  # such a key is a console's folder

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        for page in self.pages(folder, start):
            yield from page.entries()

    def _page(self, folder: str, prefix: str, **options: Any) -> Any:
        with faults(folder, _s3_place_fault, of_one=False):
            bucket = uris.parse(folder).authority
            return self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=self.page_size, **options)

    def _patient_page(self, folder: str, prefix: str, **options: Any) -> Any:
        """Asks for one of many pages. Throttling of one must not cost the others."""
        return Retries().run(partial(self._page, folder, prefix, **options))

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        """Returns ``stat`` of each, by pages of a list where the keys lie close together. Waits for faults that pass.

        Of an object that may be listed but not read, a page tells the version, while a look at it alone gives None.
        """
        named = [*wanted]
        keys = [uris.parse(uri).path for uri in named]
        sought = sorted({key for key in keys if key.isprintable()})  # some servers change the others in lists
        listed = sizes_and_etags(partial(self._patient_page, named[0]), sought) if sought else {}
        left = threaded(self._patient_stat, [uri for uri, key in zip(named, keys, strict=True) if key not in listed])
        return [
            _entry_of(uri, listed[key]) if key in listed else next(left) for uri, key in zip(named, keys, strict=True)
        ]

    def _patient_stat(self, uri: str) -> Entry | None:
        return Retries().run(partial(self._stat_or_none, uri))

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
            reply = self._get(uri)  # the answer to a GET has a body with the reason, that to a HEAD has none
            reply["Body"].close()
            return reply

    def _get(self, uri: str, **options: Any) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.get_object(**_names(uri), **options)
        except ClientError as error:
            if is_doubtful(error):
                self._ask_again(uri, is_denied=_status(error) != 404)
            raise

    def _ask_again(self, uri: str, *, is_denied: bool) -> None:
        """Asks for a listing of the one object, and raises where the answer is about more than the object."""
        try:
            with faults(uri, _s3_place_fault):
                key = _names(uri)["Key"]
                page = self._client.list_objects_v2(Bucket=_names(uri)["Bucket"], Prefix=key, MaxKeys=1)
        except Denied as error:
            if is_denied:  # keys may have expired, where there are any
                kind = Denied if settings.is_anonymous(_names(uri)["Bucket"]) else Refused
                raise kind(str(error)) from error
        except NotFound as error:  # which no S3 server says to a listing
            raise StoreUnavailable(f"{uris.shown(uri)}: 404, to any request: check AWS_ENDPOINT_URL") from error
        except ObjectError:
            pass
        else:
            if not is_denied and key in columns.columns(page).keys:
                raise TransientError(f"{uris.shown(uri)}: not found, and yet listed")

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with faults(uri, _s3_fault):
            if not uris.parse(uri).path:
                raise Unreadable(f"{uris.shown(uri)}: names a bucket, not an object")
            reply = self._get(uri)
            with contextlib.closing(reply["Body"]) as body:
                data = body.read()
        if len(data) != reply["ContentLength"]:
            raise TransientError(f"{uris.shown(uri)}: {len(data)} of {reply['ContentLength']} bytes came")
        if not is_whole(data, reply):
            self._check_length(uri, data)
        return data, Entry(uri, len(data), reply["ETag"].strip('"'))

    def download(self, entry: Entry, file: str | os.PathLike[str]) -> bool:
        if entry.size <= PART_BYTES:
            return super().download(entry, file)
        with open(file, "wb") as target, ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            try:
                part = partial(self._patient_part, entry, target.fileno())
                return all(pool.map(part, range(0, entry.size, PART_BYTES)))
            except _NoParts:
                pass
            finally:
                pool.shutdown(cancel_futures=True)
        return super().download(entry, file)

    def _patient_part(self, entry: Entry, target: int, start: int) -> bool:
        return Retries().run(partial(self._part, entry, target, start))

    def _part(self, entry: Entry, target: int, start: int) -> bool:
        """Writes one part into the open file ``target``, and returns whether it is of the same version."""
        at, end = start, min(start + PART_BYTES, entry.size)
        with faults(entry.uri, _s3_fault):
            reply = self._get(entry.uri, Range=f"bytes={start}-{end - 1}")
        with contextlib.closing(reply["Body"]) as body:
            if reply["ETag"].strip('"') != entry.version:
                return False
            if "ContentRange" not in reply:  # a gateway that sends all of it, whatever is asked for
                raise _NoParts
            while data := self._some_of(entry, body):
                at += os.pwrite(target, data, at)  # a full disk is no fault of the server's
        if at != end:
            raise TransientError(f"{uris.shown(entry.uri)}: {at - start} of {end - start} bytes came")
        return True

    def _some_of(self, entry: Entry, body: Any) -> bytes:
        with faults(entry.uri, _s3_fault):
            return bytes(body.read(CHUNK_BYTES))

    def _check_length(self, uri: str, data: bytes) -> None:
        """Checks the length, because a gateway may cut an object short, tell the shorter length, and send no MD5."""
        with faults(uri, _s3_fault):
            length = self._client.head_object(**_names(uri))["ContentLength"]
        if length != len(data):
            raise TransientError(f"{uris.shown(uri)}: {len(data)} of {length} bytes came")

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        with faults(uri, _s3_place_fault, of_one=False):
            self._client.put_object(**_names(uri), Body=data)

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        with faults(uri, _s3_place_fault, of_one=False), open(file, "rb") as source:
            self._client.upload_fileobj(source, **_names(uri))  # in parts, where it is large

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        return self._put_if(uri, data, IfNoneMatch="*")

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        return self._put_if(uri, data, IfMatch=version)  # without quotes: Ceph wants none, others take both

    def _put_if(self, uri: str, data: bytes, **condition: Any) -> bool:
        from botocore.exceptions import ClientError

        # asked again after lost answers, it is the same writer: 412 does not say whose object is in the way
        digest = hashlib.sha256(f"{self._nonce} {uri} ".encode() + data)
        writer = {"writer": digest.hexdigest()}
        with faults(uri, _s3_place_fault, of_one=False):
            try:
                self._client.put_object(**_names(uri), Body=data, Metadata=writer, **condition)
            except ClientError as error:
                if _status(error) == 404 and "IfMatch" in condition and _code(error) != "NoSuchBucket":
                    return False
                if _status(error) not in (409, 412):
                    raise
                return self._is_written_by(uri, writer, gone=False if "IfMatch" in condition else None)
        return True

    def age(self, uri: str) -> float | None:
        from botocore.exceptions import ClientError

        with faults(uri, _s3_fault):
            try:
                reply = self._client.head_object(**_names(uri))
            except ClientError as error:
                if _status(error) != 404:
                    raise
                return None
        said = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(said) if said else datetime.now(UTC)
        return (now - reply["LastModified"]).total_seconds()

    def _is_written_by(self, uri: str, writer: dict[str, str], gone: bool | None) -> bool:
        """Tells whether the object is ours, where the client sent it twice because the first answer was lost.

        ``gone`` is the answer where there is no object. Without an answer, TransientError is raised.
        """
        from botocore.exceptions import ClientError

        try:
            return bool(self._client.head_object(**_names(uri))["Metadata"] == writer)
        except ClientError as error:
            if _status(error) == 404 and gone is not None:
                return gone
            if _status(error) == 404:  # that other write failed, or was undone
                raise TransientError(f"{uris.shown(uri)}: other writers in the way") from error
            raise

    def _delete(self, uri: str, staging: str | None) -> None:
        with faults(uri, _s3_place_fault, of_one=False):
            self._client.delete_object(**_names(uri))


def _names(uri: str) -> dict[str, Any]:
    place = uris.parse(uri)
    return {"Bucket": place.authority, "Key": place.path}


def _prefix(folder: str) -> str:
    key = uris.parse(folder).path
    return key if not key or key.endswith("/") else f"{key}/"


def _entry_of(uri: str, listed: tuple[int, str] | None) -> Entry | None:
    return listed and Entry(uri, *listed)
