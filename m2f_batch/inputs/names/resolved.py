"""Resolves names of files, as annotations have them, to the files that are there.

Tools write names with backslashes, percent-encoded, in another Unicode form, with the folders of another machine, as
URLs, or with another extension. A name whose file is there is never read otherwise. Of the others, the files of one
listing are compared with them. A file is taken only where no other fits.
"""

import contextlib
import itertools
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

from m2f_batch.errors import RunError, UsageError
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS, extension_of
from m2f_batch.inputs.names.near import plain, without_marks
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store, stat_many
from m2f_batch.storage.retries import retry_before_run

_URL = re.compile(r"(?i)https?://")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*/?")
_DRIVE = re.compile(r"[A-Za-z]:")
# files of a listing per wanted name, and at least, before it is given up: a bucket may hold far more than a dataset
_PER_NAME, _AT_LEAST = 5, 200_000
_SHOWN = 3
# folders that say for what images are: those of one are not those of another
_SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}
# folders of annotations that stand beside those of the images, as in COCO's own tree
_BESIDE_IMAGES = frozenset({"annotations", "annotation", "anns", "ann", "labels", "jsons", "json"})
_Key = tuple[str, ...]
_K = TypeVar("_K", str, _Key)


@dataclass
class Resolved:
    """Holds uris by position, None where a name is no place. ``faults`` says why.

    ``otherwise`` has the ways in which a name differs from what was taken for it, ``near`` what is like a name that
    nothing was taken for, both by position. A name without its file keeps the uri that it says.
    """

    uris: list[str | None]
    faults: dict[int, str] = field(default_factory=dict)
    otherwise: dict[int, tuple[str, ...]] = field(default_factory=dict)
    near: dict[int, str] = field(default_factory=dict)

    def said(self, names: Sequence[str], folder: str) -> Iterator[tuple[int, str]]:
        """Returns a line on the names that were read otherwise, and one on near misses, with their first positions."""
        if self.otherwise:
            at = min(self.otherwise)
            ways = ", ".join(dict.fromkeys(itertools.chain.from_iterable(self.otherwise.values())))
            read = uris.below(folder, self.uris[at] or "")
            counted = f"{len(self.otherwise):,} of {len(names):,} names are read as those of files that are there"
            yield at, f"{counted} ({ways}): {bare(names[at])!r} is {read!r}"
        if self.near:
            at = min(self.near)
            yield at, f"{len(self.near):,} of {len(names):,} names are of no file: {bare(names[at])!r} {self.near[at]}"


class _Name(NamedTuple):
    """Holds a name in parts, in one Unicode form, decoded. ``stem`` and ``extension`` are of the last, without case."""

    parts: tuple[str, ...]
    stem: str
    extension: str

    def key(self) -> tuple[str, ...]:
        """Returns its parts without case and extension."""
        return (*(part.casefold() for part in self.parts[:-1]), self.stem)


def images_around(folder: str) -> str:
    """Returns the folder around images whose names stand in ``folder``, which annotations may have for themselves.

    >>> images_around("/data/coco/annotations"), images_around("/data/mine")
    ('/data/coco', '/data/mine')
    """
    return uris.parent(folder) if posixpath.basename(folder.rstrip("/")).casefold() in _BESIDE_IMAGES else folder


def bare(name: str) -> str:
    """Returns a name for a message without what follows the question mark of a URL, because that may be a key."""
    return name.partition("?")[0] if "://" in name else name


def resolve_names(
    names: Sequence[str],
    folder: str,
    extensions: Collection[str],
    *,
    bases: Sequence[str] | None = None,
    takes_urls: bool = False,
    but: str | None = None,
) -> Resolved:
    """Resolves each name against its base, by default ``folder``, below which other readings are looked for.

    ``extensions`` are those of the files that can be meant, without a dot and in lower case. ``takes_urls``: a file in
    ``folder`` is taken for an ``http(s)://`` URL, and for a place in a store that cannot be asked. Nothing below the
    folder ``but`` is taken for a name. Costs one listing where a file is missing, and on object stores one in any case,
    that ends when all names were seen.
    """
    found = Resolved([None] * len(names))
    bases = [folder] * len(names) if bases is None else bases
    for at, (name, base) in enumerate(zip(names, bases, strict=True)):
        try:
            found.uris[at] = uris.join(base, name)
        except UsageError as error:
            found.faults[at] = str(error)
    files = _Files(folder, extensions, None if but is None else but.rstrip("/") + "/")
    missing = [at for at in _missing(names, found, files, takes_urls) if takes_urls or not _URL.match(names[at])]
    _read_slashes(missing, names, bases, found)
    left = [at for at in missing if at not in found.otherwise]
    if left:
        _read_from(files, left, names, found)
    return found


class _Files:
    """Lists the files below a folder, no further than they are asked for."""

    def __init__(self, folder: str, extensions: Collection[str], but: str | None = None) -> None:
        self.folder, self._extensions = folder, extensions
        self._but = None if but is None else uris.below(folder, but)
        self._paths: set[str] = set()
        self.is_whole = self._is_given_up = False

    def seen_of(self, wanted: Collection[str]) -> set[str]:
        """Returns the ``wanted`` paths that are there. The listing ends with the last of them."""
        self._list({*wanted})
        return self._paths & {*wanted}

    def all(self) -> list[str]:
        """Returns the paths of all files that can be meant, sorted, or none where there are too many."""
        if not self.is_whole and not self._is_given_up:
            self._list(None)
        return [path for path in sorted(self._paths) if self._can_be_meant(path)] if self.is_whole else []

    def _can_be_meant(self, path: str) -> bool:
        is_apart = self._but is not None and path.startswith(self._but)
        return not is_apart and extension_of(path) in self._extensions and not is_hidden(path)

    def _list(self, left: set[str] | None) -> None:
        """Lists until nothing is ``left``, or all, up to a bound."""
        most = max(_AT_LEAST, _PER_NAME * len(left or ()))
        try:
            self._paths = retry_before_run(lambda: {*itertools.islice(self._until(left), most)})
        except (RunError, UsageError):  # it may be read, and not listed
            self._is_given_up = True
            return
        self._is_given_up = len(self._paths) >= most
        self.is_whole = not self._is_given_up and (left is None or bool(left - self._paths))

    def _until(self, wanted: set[str] | None) -> Iterator[str]:
        left = None if wanted is None else {*wanted}
        for entry in open_store(self.folder).list(self.folder):
            path = uris.below(self.folder, entry.uri)
            yield path
            if left is not None:
                left.discard(path)
                if not left:
                    return


class _Index:
    """Finds paths by the ways in which a name can mean them, a few of each: more than one is one too many."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._whole: dict[_Key, list[str]] = {}  # in their place: by all of their parts, without the extension
        self._ends: dict[_Key, list[str]] = {}  # further down than the name says: by an end of their parts
        self._stems: dict[str, list[str]] = {}
        self._unmarked: dict[str, list[str]] = {}
        self._marked: set[str] = set()
        for path in paths:
            name = _parsed(path)
            key = name.key()
            _add(self._whole, key, path)
            _add(self._whole, (*key, name.extension), path)
            _add(self._stems, name.stem, path)
            _add(self._unmarked, without_marks(name.stem), path)
            self._marked |= {path} if without_marks(name.stem) != name.stem else set()
            for start in range(1, len(key)):
                _add(self._ends, (*key[start:], name.extension), path)

    def fitting(self, name: _Name) -> list[str]:
        """Returns the paths that fit best: with the name's extension, where it says, in most of its folders.

        One of both is the end of the other: ``a/1.jpg`` is not ``b/1.jpg``, and ``1.jpg`` is not ``masks/1.png``.
        """
        key = name.key()
        ends = [key[start:] for start in range(len(key))]
        wanted = [self._whole.get((*end, name.extension)) for end in ends]
        wanted += [self._ends.get((*key, name.extension))]
        wanted += [self._whole.get(end) for end in ends]
        unmarked = without_marks(name.stem)
        wanted += [[path for path in self._unmarked.get(unmarked, ()) if path in self._marked or unmarked != name.stem]]
        return next((paths for paths in wanted if paths), [])

    def like(self, name: _Name) -> list[str]:
        """Returns paths with the name's stem, anywhere."""
        return self._stems.get(name.stem, [])


def _add(found: dict[_K, list[str]], key: _K, path: str) -> None:
    some = found.setdefault(key, [])
    if len(some) <= _SHOWN:
        some.append(path)


def _missing(names: Sequence[str], found: Resolved, files: _Files, takes_urls: bool) -> list[int]:
    """Returns the positions of names whose files are not there, and of those that are no place."""
    here = {at: uri for at, uri in enumerate(found.uris) if uri is not None and not _URL.match(uri)}
    there: set[str] = set()
    asked = [*dict.fromkeys(here.values())]
    if uris.root(files.folder):  # an object store, where each look costs a request
        inside = {uri: uris.below(files.folder, uri) for uri in asked if uri.startswith(files.folder.rstrip("/") + "/")}
        seen = files.seen_of(inside.values()) if inside else set()
        there = {uri for uri, path in inside.items() if path in seen}
        asked = [uri for uri in asked if uri not in (inside if files.is_whole else there)]
    there |= {uri for uri, is_there in zip(asked, _are_there(asked, not takes_urls), strict=True) if is_there}
    return [at for at in range(len(names)) if here.get(at) not in there]


def _are_there(wanted: Sequence[str], unknown: bool = True) -> list[bool]:
    """Tells of each file whether it is there, ``unknown`` where its store cannot be asked."""
    there = dict.fromkeys(wanted, unknown)
    for root in {uris.root(uri) for uri in wanted}:
        some = [uri for uri in there if uris.root(uri) == root]
        with contextlib.suppress(RunError, UsageError):  # a store without its keys: what it holds is not known here
            there |= {uri: entry is not None for uri, entry in zip(some, stat_many(some), strict=True)}
    return [there[uri] for uri in wanted]


def _read_slashes(missing: Sequence[int], names: Sequence[str], bases: Sequence[str], found: Resolved) -> None:
    r"""Reads ``..\images\a.jpg`` as what it means beside its annotations, where that is there."""
    meant = {at: names[at].replace("\\", "/") for at in missing if "\\" in names[at]}
    meant = {at: name for at, name in meant.items() if not _SCHEME.match(name)}
    places: dict[int, str] = {}
    for at, name in meant.items():
        with contextlib.suppress(UsageError):
            places[at] = uris.join(bases[at], name)
    for at, is_there in zip(places, _are_there([*places.values()]), strict=True):
        if is_there:
            found.uris[at], found.otherwise[at] = places[at], ("backslashes",)
            found.faults.pop(at, None)


def _read_from(files: _Files, missing: Sequence[int], names: Sequence[str], found: Resolved) -> None:
    """Takes for a missing name the one file that fits it, and says of the others what is near."""
    paths = files.all()
    if not paths:
        return
    index = _Index(paths)
    top, lost = files.folder.rstrip("/") + "/", {*missing}
    names_of: dict[str, set[str]] = {}  # names by the file that they mean: one of them, if all is well
    for at, uri in enumerate(found.uris):
        if at not in lost and uri is not None:
            names_of.setdefault(uri, set()).add(names[at])
    taken: dict[int, str] = {}
    for at in missing:
        name = _parsed(names[at])
        like, fitting = index.like(name), index.fitting(name)
        if len(fitting) == 1 and _is_of_another_split(name, top + fitting[0]):
            fitting = []
        if len(fitting) == 1:
            taken[at] = fitting[0]
            names_of.setdefault(top + fitting[0], set()).add(names[at])
        elif like or fitting:
            found.near[at] = f"may be {_or(fitting)}" if fitting else f"is not there, and {_or(like)} is"
    for at, path in taken.items():
        others = names_of[top + path] - {names[at]}
        if others:
            found.near[at] = f"may be {path!r}, and so may {min(others)!r}"
            continue
        found.uris[at], found.otherwise[at] = top + path, _ways(names[at], path)
        found.faults.pop(at, None)


def _or(paths: Sequence[str]) -> str:
    return " or ".join(map(repr, paths[:_SHOWN])) + (" or others" if len(paths) > _SHOWN else "")


def _is_of_another_split(name: _Name, uri: str) -> bool:
    """Tells whether a name says ``train`` where a file lies in ``val``, so that only their numbers agree."""
    splits = (_split_of(name.parts[:-1]), _split_of(_parsed(uri).parts[-4:-1]))
    return None not in splits and len({*splits}) > 1


def _split_of(folders: Sequence[str]) -> int | None:
    found = (_SPLITS.get(folder.casefold().rstrip("0123456789")) for folder in reversed(folders))
    return next((split for split in found if split is not None), None)


def _parsed(name: str) -> _Name:
    r"""Returns the parts of a name, without those that lead nowhere or upwards, a drive, a host, a query.

    >>> _parsed(r"C:\data\A%20b.JPG").parts, _parsed("https://host/a/b.jpg?x=1").parts
    (('data', 'A b.JPG'), ('a', 'b.jpg'))
    """
    parts = tuple(part for part in plain(name).split("/") if part not in ("", ".", "..") and not _DRIVE.fullmatch(part))
    stem, extension = _split(parts[-1]) if parts else ("", "")
    return _Name(parts, stem.casefold(), extension.casefold())


def _split(name: str) -> tuple[str, str]:
    """Returns stem and last extension of a name, which may have several of images: ``a.jpg.png`` is called ``a``."""
    stem, extension = posixpath.splitext(name)
    while extension_of(stem) in IMAGE_EXTENSIONS:
        stem = posixpath.splitext(stem)[0]
    return stem, extension


def _ways(name: str, path: str) -> tuple[str, ...]:
    """Returns the ways in which a name differs from the path that was taken for it."""
    written, there, bare = _parsed(name), _parsed(path), unquote(name)
    common = min(len(written.parts), len(there.parts))
    ours, theirs = ((*one.parts[-common:-1], _split(one.parts[-1])[0]) for one in (written, there))
    is_marked = written.stem != there.stem
    ways = {
        "backslashes": "\\" in bare,
        "percent-encoding": bare != name or unquote(path) != path,
        "another Unicode form": unicodedata.is_normalized("NFC", bare) != unicodedata.is_normalized("NFC", path),
        "case": ours != theirs and not is_marked,
        "another extension": not is_marked and written.parts[-1].casefold() != there.parts[-1].casefold(),
        "what a tool put before or behind them": is_marked,
    }
    differing = [way for way, differs in ways.items() if differs]
    is_moved = len(written.parts) != len(there.parts) or not differing
    return (*["folders"] * is_moved, *differing)
