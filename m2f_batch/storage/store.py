"""An opened place: list, stat, read and write whole objects, on a disk, on S3, or on any ``pyarrow.fs`` file system.

Faults are sorted here, once, by what they are wrong for: one object (``ObjectError``), this moment (``TransientError``,
after the client's own retries), everything (``StoreUnavailable``). Messages are one line, the same in every run (no
request ids, hosts or times), and never hold keys. Methods take full URIs of the store's own place, in any spelling.
"""

import contextlib
import errno
import io
import itertools
import os
import shutil
import stat
import threading
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyarrow import ArrowException, ArrowInvalid, fs

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.storage import uris

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_T = TypeVar("_T")

_CHUNK = 1 << 20  # bytes copied at a time
THREADS = 32  # requests in flight per call; S3 answers in some 30 ms, so about 1000 a second


class Entry(NamedTuple):
    """One stored object: ``size`` in bytes, ``version`` its ETag on S3, ``size-mtime_ns`` elsewhere."""

    uri: str
    size: int
    version: str


class ObjectError(RunError):
    """Wrong for one object, and no less so a minute later. Of an image: a row. Of a run's own file: the end."""


class NotFound(ObjectError):
    """There is no such object."""


class Denied(ObjectError):
    """The object may not be read with these keys, by this user."""


class Unreadable(ObjectError):
    """The object cannot be read: a directory, an archived object, a bad block."""


class StoreUnavailable(RunError):
    """Wrong for every object of the place: no bucket, wrong or expired keys, a full disk."""


class Unreachable(StoreUnavailable):
    """No server answers at the endpoint: a wrong address, or a server that is away for a while."""


class Store(ABC):
    """Whole objects of one bucket or file system; safe to share between threads, not between processes."""

    @abstractmethod
    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        """Every file below ``folder``, in any order; only those whose path below it begins with ``start``.

        A folder that is not there lists nothing.
        """

    @abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether there is such a directory, or any object below such a prefix."""

    @abstractmethod
    def stat(self, uri: str) -> Entry | None:
        """The object's size and version; None if there is no such file. Raises Denied, Unreadable."""

    @abstractmethod
    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        """The whole object and what it is, of one moment. Raises NotFound, Denied, Unreadable."""

    @abstractmethod
    def write(self, uri: str, data: bytes) -> None:
        """Creates or replaces the object: readers see the old one or the new one, whole."""

    @abstractmethod
    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        """``write`` of a local file that need not fit in memory."""

    @abstractmethod
    def write_new(self, uri: str, data: bytes) -> bool:
        """Creates the object, whole, if there is none; False if there is one. One of many racing writers wins."""

    @abstractmethod
    def _delete(self, uri: str) -> None:
        """Deletes one object; none there is no error."""

    def normalise(self, uri: str) -> str:
        """The one spelling of ``uri``, which listings and rows use."""
        return uris.normalise(uri)

    def read(self, uri: str) -> bytes:
        """The whole object. Raises NotFound, Denied, Unreadable."""
        return self.read_entry(uri)[0]

    def exists(self, uri: str) -> bool:
        """Whether there is such a file."""
        return self.stat(uri) is not None

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        """``stat`` of each, in order; None also for what may not be looked at."""
        return [*_threaded(self._stat_or_none, wanted)]

    def delete(self, unwanted: Iterable[str]) -> None:
        """Deletes the objects; one that is not there is no error."""
        for _ in _threaded(self._delete, unwanted):
            pass

    def _stat_or_none(self, uri: str) -> Entry | None:
        try:
            return self.stat(uri)
        except ObjectError:
            return None


def open_store(uri: str) -> Store:
    """The store that holds ``uri``; one per bucket or file system and process. Opening sends no request.

    Raises UsageError for a URI that names no place, or one of an unknown scheme.
    """
    place = uris.parse(uri)
    with _OPENING:  # neither boto3's nor our cache makes one client only when threads race
        return _open(place.scheme, place.authority)


def stat_many(wanted: Iterable[str]) -> list[Entry | None]:
    """``Store.stat_many`` over any number of places, in order."""
    listed = list(wanted)
    by_store: dict[Store, list[int]] = {}
    for index, uri in enumerate(listed):
        by_store.setdefault(open_store(uri), []).append(index)
    found: list[Entry | None] = [None] * len(listed)
    for store, indices in by_store.items():
        for index, entry in zip(indices, store.stat_many(listed[index] for index in indices), strict=True):
            found[index] = entry
    return found


def reset_stores() -> None:
    """Forgets the opened stores, and with them the endpoint and keys they were opened with."""
    _open.cache_clear()


_OPENING = threading.Lock()


@cache
def _open(scheme: str, authority: str) -> Store:
    if not scheme:
        return LocalStore()
    return S3Store(_new_client()) if scheme == "s3" else ArrowStore(f"{scheme}://{authority}")


def _threaded(act: Callable[[str], _T], wanted: Iterable[str], threads: int = THREADS) -> Iterator[_T]:
    """``map`` in threads, in order, holding no more than some thousand futures at a time."""
    left = iter(wanted)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := [*itertools.islice(left, 100 * threads)]:
            yield from pool.map(act, chunk)


@contextlib.contextmanager
def _faults(uri: str, sort: Callable[[str, Exception], Exception | None], *, of_one: bool = True) -> Iterator[None]:
    """Turns what ``sort`` knows into our errors. Not ``of_one``: what is wrong, then, is the place (lists, writes)."""
    try:
        yield
    except Exception as error:
        fault = sort(uris.shown(uri), error)
        if fault is None:
            raise
        raise (fault if of_one or not isinstance(fault, ObjectError) else StoreUnavailable(str(fault))) from error


# ---- disks, and other pyarrow file systems


_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def _file_fault(uri: str, error: Exception) -> Exception | None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{uri}: no such file")
    if isinstance(error, PermissionError):
        return Denied(f"{uri}: permission denied")
    if not isinstance(error, OSError | ArrowException):
        return None
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number, "errno") if number else type(error).__name__
    if number in _FULL_ERRNO:
        return StoreUnavailable(f"{uri}: {name}")
    # without a number it is some other store's client, whose lost servers look the same as anything else
    passing = number in _PASSING_ERRNO or (number is None and isinstance(error, OSError))
    return TransientError(f"{uri}: {name}") if passing else Unreadable(f"{uri}: {name}")


def _version(size: int, mtime_ns: int | None) -> str:
    return f"{size}-{mtime_ns or 0}"


class LocalStore(Store):
    """This machine's files. Symlinks are followed, loops are not."""

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        with _faults(folder, _file_fault, of_one=False):
            yield from self._walk(_local(folder), start, ())

    def _walk(self, folder: str, start: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            here = os.stat(folder)
            files = [*os.scandir(folder)]
        except FileNotFoundError:
            return
        if (here.st_dev, here.st_ino) in above:
            return
        for file in files:
            if not file.name.startswith(start):
                continue
            if file.is_dir():
                yield from self._walk(file.path, "", (*above, (here.st_dev, here.st_ino)))
                continue
            with contextlib.suppress(FileNotFoundError):  # vanished since, unless it is a link to nothing: listed
                info = file.stat(follow_symlinks=os.path.exists(file.path))
                if stat.S_ISREG(info.st_mode):
                    yield _local_entry(file.path, info)
                elif stat.S_ISLNK(info.st_mode):
                    yield Entry(file.path, 0, "")

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(_local(uri))

    def stat(self, uri: str) -> Entry | None:
        path = _local(uri)
        with _faults(path, _file_fault):
            try:
                info = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _local_entry(path, info) if stat.S_ISREG(info.st_mode) else None

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        return [self._stat_or_none(uri) for uri in wanted]

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        path = _local(uri)
        with _faults(path, _file_fault):
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
                raise Unreadable(f"{uris.shown(path)}: not a regular file")
            with open(path, "rb") as file:
                data = file.read()
                info = os.fstat(file.fileno())  # after the read: what was written meanwhile shows
        if len(data) != info.st_size:
            raise TransientError(f"{uris.shown(path)}: being written")
        return data, _local_entry(path, info)

    def write(self, uri: str, data: bytes) -> None:
        self._replace(uri, io.BytesIO(data))

    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        with open(file, "rb") as source:
            self._replace(uri, source)

    def _replace(self, uri: str, source: IO[bytes]) -> None:
        path = _local(uri)
        with _faults(path, _file_fault, of_one=False), self._temporary(path, source) as temporary:
            os.replace(temporary, path)

    def write_new(self, uri: str, data: bytes) -> bool:
        path = _local(uri)
        with _faults(path, _file_fault, of_one=False), self._temporary(path, io.BytesIO(data)) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True

    @contextlib.contextmanager
    def _temporary(self, path: str, source: IO[bytes]) -> Iterator[str]:
        """A whole file beside ``path``, on disk; gone at the end, unless it was moved."""
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def _delete(self, uri: str) -> None:
        with _faults(uri, _file_fault, of_one=False), contextlib.suppress(FileNotFoundError):
            os.unlink(_local(uri))


def _local(uri: str) -> str:
    return uris.parse(uri).path


def _local_entry(path: str, info: os.stat_result) -> Entry:
    return Entry(path, info.st_size, _version(info.st_size, info.st_mtime_ns))


class ArrowStore(Store):
    """Any other ``pyarrow.fs`` file system. ``write_new`` looks, then writes: two writers may both win."""

    def __init__(self, root: str) -> None:
        try:
            self._files, self._base = fs.FileSystem.from_uri(root + "/")
        except (ArrowInvalid, ValueError) as error:
            raise UsageError(
                f"{root}: not one of the file systems of pyarrow.fs (file, s3, gs, abfs, hdfs, hf)"
            ) from error
        except (OSError, ImportError) as error:
            raise StoreUnavailable(f"{root}: {str(error).splitlines()[0]}") from error

    def _path(self, uri: str) -> str:
        name = uris.parse(uri).path
        return (f"{self._base.rstrip('/')}/{name}" if self._base else name).rstrip("/")

    def _entry(self, uri: str, info: fs.FileInfo) -> Entry:
        return Entry(uri, info.size or 0, _version(info.size or 0, info.mtime_ns))

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        base = self._path(folder).strip("/")
        with _faults(folder, _file_fault, of_one=False):
            found = self._files.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True))
        for info in found:
            name = uris.below(base, info.path.lstrip("/"))
            if info.type == fs.FileType.File and name.startswith(start):
                yield self._entry(f"{folder.rstrip('/')}/{name}", info)

    def is_folder(self, uri: str) -> bool:
        with _faults(uri, _file_fault, of_one=False):
            return bool(self._files.get_file_info(self._path(uri)).type == fs.FileType.Directory)

    def stat(self, uri: str) -> Entry | None:
        with _faults(uri, _file_fault):
            info = self._files.get_file_info(self._path(uri))
        return self._entry(uri, info) if info.type == fs.FileType.File else None

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with _faults(uri, _file_fault):
            with self._files.open_input_stream(self._path(uri)) as file:
                data = file.read()
            entry = self.stat(uri)
        if entry is None or entry.size != len(data):
            raise TransientError(f"{uris.shown(uri)}: {len(data)} bytes came")
        return data, entry

    def write(self, uri: str, data: bytes) -> None:
        self._replace(uri, io.BytesIO(data))

    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        with open(file, "rb") as source:
            self._replace(uri, source)

    def _replace(self, uri: str, source: IO[bytes]) -> None:
        path = self._path(uri)
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        with _faults(uri, _file_fault, of_one=False):
            self._files.create_dir(folder, recursive=True)
            with self._files.open_output_stream(temporary) as file:
                shutil.copyfileobj(source, file, _CHUNK)
            self._files.move(temporary, path)

    def write_new(self, uri: str, data: bytes) -> bool:
        if self.exists(uri):
            return False
        self.write(uri, data)
        return True

    def _delete(self, uri: str) -> None:
        with _faults(uri, _file_fault, of_one=False), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._path(uri))


# ---- S3


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


def _new_client() -> "S3Client":
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
        with _faults(folder, _s3_fault, of_one=False):
            bucket = uris.parse(folder).authority
            return self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=self.page_size, **options)

    def is_folder(self, uri: str) -> bool:
        page = self._page(uri, _prefix(uri))  # also of the whole bucket, to see that it is there
        return bool(page["KeyCount"]) or not uris.parse(uri).path

    def stat(self, uri: str) -> Entry | None:
        if not uris.parse(uri).path:
            return None
        try:
            with _faults(uri, _s3_fault):
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
        with contextlib.suppress(ObjectError), _faults(uri, _s3_fault):
            self._client.list_objects_v2(Bucket=uris.parse(uri).authority, Prefix=uris.parse(uri).path, MaxKeys=1)

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with _faults(uri, _s3_fault):
            if not uris.parse(uri).path:
                raise Unreadable(f"{uris.shown(uri)}: names a bucket, not an object")
            reply = self._get(uri)
            with contextlib.closing(reply["Body"]) as body:
                data = body.read()
        if len(data) != reply["ContentLength"]:
            raise TransientError(f"{uris.shown(uri)}: {len(data)} of {reply['ContentLength']} bytes came")
        return data, Entry(uri, len(data), reply["ETag"].strip('"'))

    def write(self, uri: str, data: bytes) -> None:
        with _faults(uri, _s3_fault, of_one=False):
            self._client.put_object(**_names(uri), Body=data)

    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        with _faults(uri, _s3_fault, of_one=False), open(file, "rb") as source:
            self._client.upload_fileobj(source, **_names(uri))  # in parts, where it is large

    def write_new(self, uri: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        writer = {"writer": uuid.uuid4().hex}
        with _faults(uri, _s3_fault, of_one=False):
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
        with _faults(uri, _s3_fault, of_one=False):
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
