"""Parses and spells places: a local path, ``s3://bucket/key``, or a URI of any other kind of store.

A place has one spelling, because ``image_id`` is a hash of it. Local files are absolute paths. Everything else is
``scheme://authority/path`` with nothing percent-encoded: keys with ``%``, ``+``, ``#`` or ``?`` stay themselves.
"""

import os
import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from m2f_batch import backends
from m2f_batch.backends import Backend
from m2f_batch.errors import UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")  # of a model
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@%\\\[\]]+)(:\d{1,5})?")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
# by what follows the name, too: a key may hold "?sig=12". Signatures are 32 bytes and more, in hexadecimal digits or
# base64 (of S3's second version 20 bytes). The shortest secret that S3 servers take has 8 characters
_SIGNED = re.compile(
    r"(?i)[?&](x-(amz|goog)-signature=[0-9a-f]{32}|x-(amz|goog)-(credential|security-token)=[^&\s]{16}"
    r"|awsaccesskeyid=\w{16}|sig(nature)?=[\w%/+-]{20}|sas_token=[^\s]{16}"
    r"|(account_key|access_key|secret_key|session_token)=[^&\s]{8})"
)
_MAGIC = re.compile(r"[*?\[]")


class Location(NamedTuple):
    """Holds the parts of a URI. A local file has the scheme "" and an absolute ``path``, others one without root."""

    scheme: str
    authority: str
    path: str

    @property
    def is_web(self) -> bool:
        """Tells whether it is a URL of the web."""
        return backends.is_web(self.scheme)

    def __str__(self) -> str:
        if not self.scheme:
            return self.path
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")


def parse(uri: str) -> Location:
    """Takes a URI or a path apart. Relative paths are resolved against the working directory.

    Raises UsageError where it cannot be the name of a place, or carries a secret.
    """
    if not uri or "\0" in uri:
        raise UsageError("a URI must not be empty, nor contain a NUL character")
    match = _URI.fullmatch(uri)
    if match is None:
        return Location("", "", os.path.abspath(expanded(uri)))
    scheme, rest = match[1].lower(), match[2]
    authority, _, path = rest.partition("/")
    backend = backends.find_backend(scheme)
    if backend is None:
        raise UsageError(f"{scheme}://...: no scheme of files that can be opened; {_meant(scheme)}")
    if backend.is_local:  # file:///a%20b: the one scheme with percent-encoding, as everywhere
        return Location("", "", os.path.abspath(unquote("/" + path)))
    if backend.is_web:
        return _web_location(scheme, authority, path)
    _check_authority(backend, scheme, authority)
    return Location(scheme, authority, path)


def _check_authority(backend: Backend, scheme: str, authority: str) -> None:
    """Raises UsageError for what can be no bucket, or carries a secret or options."""
    if ":" in authority.rpartition("@")[0]:  # the URI would go into every row
        raise UsageError(f"{scheme}://...: keys and passwords come from the environment, never from the URI")
    if re.search(r"[?#%\\\s]", authority) or not authority.isprintable():
        # pyarrow.fs would take what follows for options of the file system: another server's address, say
        raise UsageError(f"{scheme}://...: a host or bucket has no '?', '#', '%', '\\' or blank; options are not taken")
    for wanted, problem in backend.authority:
        if not re.fullmatch(wanted, authority):
            raise UsageError(problem.format(scheme=scheme))


def _meant(scheme: str) -> str:
    """Returns what to do about a scheme that no store has."""
    for backend in backends.all_backends():
        if scheme in backend.misspelled:
            return f"write {backend.schemes[0]}://"
    known = {name for each in backends.all_backends() if not each.is_web for name in {*each.schemes} - {*each.hidden}}
    return f"allowed: {', '.join(sorted(known - {''}))}, and local paths"


def expanded(path: str) -> str:
    """Expands a path as a shell does: ``~`` and ``~user`` at its beginning are the home of a user that there is.

    Every place that a config or a command names goes through here. A folder of such a name is written ``./~``. Entries
    of manifests and annotations are data, and stay what they are.
    """
    return os.path.expanduser(path)


def _web_location(scheme: str, authority: str, path: str) -> Location:
    """Takes a URL apart as it is written: nothing of it is decoded, and ``path`` has its query."""
    if "@" in authority:  # the URL would go into every row
        raise UsageError(f"{scheme}://...: keys and passwords come from the environment, never from the URI")
    if not _HOST.fullmatch(authority) or not authority.isprintable():
        raise UsageError(f"{scheme}://...: wanted {scheme}://HOST/PATH or {scheme}://HOST:PORT/PATH")
    return Location(scheme, authority, path)


def is_web(uri: str) -> bool:
    """Tells whether it is a URL of the web.

    >>> is_web("https://host/a.jpg"), is_web("HTTP://host/"), is_web("s3://bucket/a.jpg")
    (True, True, False)
    """
    backend = _backend_of(uri)
    return backend is not None and backend.is_web


def _backend_of(uri: str) -> Backend | None:
    """Returns the kind of store that the scheme of ``uri`` names, None without a scheme that is known."""
    scheme, mark, _ = uri.partition("://")
    return backends.find_backend(scheme.lower()) if mark and scheme else None


def _is_file(uri: str) -> bool:
    backend = _backend_of(uri)
    return backend is not None and backend.is_local


def check_written(uri: str) -> None:
    """Raises UsageError for a place in a store that can only be read.

    >>> check_written("s3://bucket/runs/1")
    """
    backend = _backend_of(uri)
    if backend is not None and not backend.is_writable:
        problem = f": nothing can be written to {backend.name}"
        raise UsageError(problem, value=without_secrets(uri), hint="give a folder or a bucket")


def check_model(uri: str) -> None:
    """Raises UsageError for a model on the web, because models are not read from there.

    >>> check_model("s3://bucket/models/1")
    """
    if is_web(uri):
        hint = "give a hub id (owner/name), a directory or an object-store URI"
        raise UsageError(": models are not read from the web", value=without_secrets(uri), hint=hint)


def check_unsigned(uri: str) -> None:
    """Raises UsageError for a presigned URL, because what an image is called goes into every row.

    >>> check_unsigned("s3://bucket/photo.jpg?sig=12&signature=none.png")

    It is for what a config or a manifest names, not for what a store lists, because files may be called so.
    """
    if _URI.fullmatch(uri) and not _is_file(uri) and _SIGNED.search(uri):
        raise UsageError("a URI holds a signature or a key: these come from the environment, never from the URI")


def normalize(uri: str) -> str:
    """Returns the one spelling of a URI.

    >>> normalize("/a/../b/x.jpg"), normalize("file:///a%20b"), normalize("s3://bucket/50%25.jpg")
    ('/b/x.jpg', '/a b', 's3://bucket/50%25.jpg')
    """
    return str(parse(uri))


def root(uri: str) -> str:
    """Returns scheme and authority, which all URIs of a store begin with, or "" for a local path.

    >>> root("s3://bucket/a/x.jpg"), root("/a/x.jpg")
    ('s3://bucket', '')
    """
    match = _ROOT.match(uri)
    return match[0] if match else ""


def shown(uri: str) -> str:
    r"""Returns a URI for a message of one line.

    >>> print(shown("/a b/new\nline.jpg"))
    /a b/new\nline.jpg
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in uri)


def without_secrets(uri: str) -> str:
    """Returns a URI without user, password and query, where a signature may stand.

    >>> without_secrets("https://me:secret@host/a.jpg?sig=12"), without_secrets("/a?b@c.jpg")
    ('https://host/a.jpg?...', '/a?b@c.jpg')
    """
    match = _URI.fullmatch(uri)
    if match is None:
        return uri
    place, mark, _ = match[2].partition("?")
    authority, slash, path = place.partition("/")
    return f"{match[1]}://{authority.rpartition('@')[2]}{slash}{path}{mark and '?...'}"


def join(folder: str, name: str) -> str:
    """Resolves ``name`` against ``folder``, in the one spelling. A URI or an absolute path stays what it is.

    >>> join("s3://bucket/lists", "../images/a b.jpg"), join("/data", "/other/x.jpg"), join("/data", "x.jpg")
    ('s3://bucket/images/a b.jpg', '/other/x.jpg', '/data/x.jpg')
    >>> join("s3://bucket/lists", "../in//a.jpg")
    's3://bucket/in//a.jpg'
    """
    if name.startswith("/") or _URI.fullmatch(name):
        check_unsigned(name)
        return normalize(name)
    place = parse(folder)
    folder_path = place.path if place.path.endswith("/") or not place.path else f"{place.path}/"
    if not place.scheme:
        return normalize(folder_path + name)
    parts = folder_path.split("/")[:-1]
    for part in name.split("/"):  # not by normpath: a key may hold "//"
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return normalize(str(place._replace(path="/".join(parts))))


def parent(uri: str) -> str:
    """Returns the folder that holds ``uri``.

    >>> parent("s3://bucket/a/list.csv"), parent("s3://bucket/list.csv"), parent("/list.csv")
    ('s3://bucket/a', 's3://bucket', '/')
    >>> parent("s3://bucket/a//list.csv")
    's3://bucket/a//'
    """
    place = parse(uri)
    if not place.scheme:
        return posixpath.dirname(place.path)
    path = place.path.partition("?")[0] if place.is_web else place.path
    folder, slash, _ = path.rpartition("/")
    # a folder without name: only the slash at the end tells it from the one above
    return str(place._replace(path=folder + slash if folder.endswith("/") or (slash and not folder) else folder))


def below(folder: str, uri: str) -> str:
    """Returns the part of ``uri`` below ``folder``, both in the one spelling.

    >>> below("s3://bucket/a/", "s3://bucket/a/b/c.jpg"), below("/", "/x.jpg")
    ('b/c.jpg', 'x.jpg')
    """
    return all_below(folder, [uri])[0]


def all_below(folder: str, places: Iterable[str]) -> list[str]:
    """Returns ``below`` of many places."""
    top = folder if folder.endswith("/") else f"{folder}/"
    return [place.removeprefix(top) for place in places]


def is_inside(uri: str, folder: str, *, is_elsewhere: bool = False) -> bool:
    """Tells whether ``uri`` is ``folder`` or lies in it.

    Local symlinks are followed, unless both are places of another machine (``is_elsewhere``), where others lie.

    >>> is_inside("s3://bucket/a/out", "s3://bucket/a"), is_inside("s3://bucket/a-out", "s3://bucket/a")
    (True, False)
    """
    inner, outer = parse(uri), parse(folder)
    if inner[:2] != outer[:2]:
        return False
    as_spelled = bool(inner.scheme) or is_elsewhere
    paths = [place.path if as_spelled else os.path.realpath(place.path) for place in (inner, outer)]
    inner_path, outer_path = (path.strip("/") for path in paths)
    return not outer_path or f"{inner_path}/".startswith(f"{outer_path}/")


def has_glob(uri: str) -> bool:
    """Tells whether the path of ``uri`` has one of ``* ? [``. A URL of the web is no glob, whatever its query has."""
    if is_web(uri):
        return False
    match = _URI.fullmatch(uri)
    return _MAGIC.search(match[2].partition("/")[2] if match else uri) is not None


def split_glob(uri: str) -> tuple[str, str]:
    """Splits a glob into the folder that its matches lie below, in the one spelling, and the pattern of the rest.

    >>> split_glob("s3://bucket/a/im*/x?.jpg"), split_glob("/*.png")
    (('s3://bucket/a', 'im*/x?.jpg'), ('/', '*.png'))
    """
    if _is_file(uri):
        uri = unquote("/" + uri.partition("://")[2].partition("/")[2])
    parts = uri.split("/")
    first = 3 if _URI.fullmatch(uri) else 0  # "s3:", "", "bucket" are no patterns
    split = next(index for index, part in enumerate(parts) if index >= first and _MAGIC.search(part))
    folder = "/".join(parts[:split]) or ("/" if uri.startswith("/") else ".")
    return normalize(folder), "/".join(parts[split:])


def glob_start(pattern: str) -> str:
    """Returns the literal text that every match of a pattern begins with.

    >>> glob_start("im*/x?.jpg")
    'im'
    """
    return pattern[: next((match.start() for match in [_MAGIC.search(pattern)] if match), len(pattern))]
