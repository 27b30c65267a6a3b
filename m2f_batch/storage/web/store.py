"""Reads images behind ``http(s)://`` URLs that an allow-list names. Nothing can be written there.

The version of a file is its ETag, else the date of its last change, else its length.
"""

import os
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, NoReturn
from urllib.parse import quote, urljoin

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.storage import allow, uris
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import (
    OF_LENGTH,
    Entry,
    NotFound,
    ObjectError,
    Store,
    StoreUnavailable,
    Unreadable,
    faults,
    http_fault,
    threaded,
)
from m2f_batch.storage.web.hosts import PER_ADDRESS, pools_of

MAX_BYTES = 1 << 30  # of one file
MAX_SECONDS = 600.0  # for the body of one file
MAX_REDIRECTS = 5
_CHUNK = 1 << 16  # bytes
_HEADERS = {"User-Agent": "m2f-batch", "Accept-Encoding": "identity", "Accept": "image/*,*/*;q=0.8"}


class _Reply(NamedTuple):
    """Holds a reply that is no redirect, and no error."""

    uri: str  # as it was asked for at first
    raw: urllib3.BaseHTTPResponse

    def version(self, length: int) -> str | None:
        """Returns the ETag, or the date of the last change, else ``length`` bytes unless that is below 0."""
        tag = self.raw.headers.get("ETag", "").strip().removeprefix("W/").strip('"')
        return (
            tag
            or self.raw.headers.get("Last-Modified", "").strip()
            or (f"{OF_LENGTH}{length}" if length >= 0 else None)
        )

    def length(self) -> int:
        """Returns the bytes of the whole file as the headers say, -1 where they do not."""
        total = self.raw.headers.get("Content-Range", "").rpartition("/")[2]
        if self.raw.status in (206, 416):
            return int(total) if total.isdecimal() else -1
        length = self.raw.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() and not self.is_packed() else -1

    def is_packed(self) -> bool:
        """Tells whether the server has compressed the file on its way."""
        return self.raw.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")


def open_store(scheme: str, authority: str) -> "WebStore":
    """Returns the store of a host."""
    return WebStore()


class WebStore(Store):
    """Holds the files of all hosts that the allow-lists name, behind ``GuardedStore``, which checks places."""

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        raise StoreUnavailable(f"{_shown(folder)}: the web cannot be listed; name the images in a manifest")

    def is_folder(self, uri: str) -> bool:
        return False

    def stat(self, uri: str) -> Entry | None:
        with faults(uri, _fault):
            try:
                return self._looked_at(uri)
            except NotFound:
                return None

    def _looked_at(self, uri: str) -> Entry:
        try:
            with _ended(_ask("HEAD", uri)) as head:
                if (version := head.version(-1)) is not None:
                    return Entry(uri, max(head.length(), 0), version)
        except ObjectError as error:  # some servers do not answer to HEAD, so what a GET says counts
            if isinstance(error, allow.Astray):
                raise
        with _ended(_ask("GET", uri, {"Range": "bytes=0-0"})) as reply:
            length = reply.length()
            if length < 0 and reply.raw.status == 200:
                length = sum(map(len, _pieces(reply)))
            return Entry(uri, max(length, 0), reply.version(length) or f"{OF_LENGTH}unknown")

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        """Returns ``stat`` of each. Faults that pass are waited for."""
        return [*threaded(self._patient_stat, wanted, PER_ADDRESS)]

    def _patient_stat(self, uri: str) -> Entry | None:
        return Retries().run(partial(self._stat_or_none, uri))

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with faults(uri, _fault), _ended(_ask("GET", uri)) as reply:
            data = b"".join(_pieces(reply))
        return data, Entry(uri, len(data), reply.version(len(data)) or "")

    def is_version(self, entry: Entry, version: str) -> bool:
        """Looks once more before a file is called changed, because some servers say to a GET more than to a HEAD."""
        if entry.version == version:
            return True
        again = self.stat(entry.uri) if version else None
        return again is not None and again.version == version

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        _refuse(uri)

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        _refuse(uri)

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        _refuse(uri)

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        _refuse(uri)

    def age(self, uri: str) -> float | None:
        return None

    def _delete(self, uri: str, staging: str | None) -> None:
        _refuse(uri)


def _refuse(uri: str) -> NoReturn:
    raise StoreUnavailable(f"{_shown(uri)}: nothing can be written to the web; give a directory or a bucket")


def _ask(method: str, uri: str, headers: dict[str, str] | None = None) -> _Reply:
    """Sends a request, and follows redirects as far as the allow-lists go. Raises ObjectError, TransientError."""
    at = uri
    for _ in range(MAX_REDIRECTS + 1):
        raw = _sent(method, at, _HEADERS | (headers or {}))
        location = raw.headers.get("Location")
        if raw.status in (301, 302, 303, 307, 308) and location:
            _end(raw)
            at = _redirected(uri, at, location)
            continue
        if raw.status < 300 or (raw.status == 416 and headers):  # of an empty file no byte can be had
            return _Reply(uri, raw)
        _end(raw)
        raise http_fault(_shown(uri), raw.status)
    raise Unreadable(f"{_shown(uri)}: more than {MAX_REDIRECTS} redirects")


@contextmanager
def _ended(reply: _Reply) -> Iterator[_Reply]:
    """Lends the reply, and gives its connection back, because there are few of them and others wait."""
    try:
        yield reply
    finally:
        _end(reply.raw)


def _end(raw: urllib3.BaseHTTPResponse) -> None:
    with suppress(HTTPError):
        if 0 < (raw.length_remaining or 0) <= _CHUNK:
            raw.read1(_CHUNK, decode_content=False)  # what is here, without a wait for more
        if raw.length_remaining == 0:
            raw.drain_conn()  # the next request can go the same way
    raw.close()
    raw.release_conn()


def _redirected(uri: str, at: str, location: str) -> str:
    """Returns where a redirect leads. Raises Astray where that may not be read, Unreadable where it is no URL."""
    try:
        location = urljoin(at, location)
        if uris.is_web(location):
            target = uris.normalize(location)
            allow.check(target)
            return target
    except (allow.NotAllowed, UsageError):
        pass
    except ValueError:
        raise Unreadable(f"{_shown(uri)}: leads to what is no URL") from None
    host = uris.shown(uris.root(uris.without_secrets(location))) or "a local file"
    raise allow.Astray(f"{_shown(uri)}: leads outside the allow-list, to {host}")


def _sent(method: str, uri: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
    place = uris.parse(uri)
    target = quote("/" + place.path.partition("#")[0], safe="/%?:@!$&'()*+,;=~[]")
    host = place.authority if place.authority.isascii() else place.authority.encode("idna").decode()
    *first, last = pools_of(uri)
    for pool in (*first, last):
        try:
            return pool.urlopen(
                method,
                target,
                headers=headers | {"Host": host},
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=True,
            )
        except (NewConnectionError, ConnectTimeoutError):  # to this address: the host may have others
            if pool is last:
                raise
    raise AssertionError("unreachable")


def _pieces(reply: _Reply) -> Iterator[bytes]:
    """Yields the bytes of a file, bounded in size and time. Raises Unreadable, TransientError."""
    uri, length = _shown(reply.uri), reply.length()
    too_large = Unreadable(f"{uri}: more than {MAX_BYTES:,} bytes")
    if length > MAX_BYTES:
        raise too_large
    until = time.monotonic() + MAX_SECONDS
    size = 0
    while part := reply.raw.read1(_CHUNK):
        size += len(part)
        if size > MAX_BYTES:
            raise too_large
        if time.monotonic() > until:
            raise TransientError(f"{uri}: not there after {MAX_SECONDS:g} s")
        yield part
    if length >= 0 and size != length:
        raise TransientError(f"{uri}: {size} of {length} bytes came")


def _shown(uri: str) -> str:
    return uris.shown(uris.without_secrets(uri))


def _fault(uri: str, error: Exception) -> Exception | None:
    """Returns our error for one of urllib3's. It leaves their reasons out, because these hold addresses and times."""
    if isinstance(error, TransientError | ObjectError):
        return error
    uri = _shown(uri)
    reason = error.args[0] if isinstance(error, urllib3.exceptions.SSLError) and error.args else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unreadable(f"{uri}: the certificate of the server is not trusted")
    if isinstance(error, urllib3.exceptions.LocationParseError | UnicodeError):
        return Unreadable(f"{uri}: not a URL that can be asked for")
    return TransientError(f"{uri}: {type(error).__name__}") if isinstance(error, HTTPError | OSError) else None
