"""INPUT to the table of images to label: (image_id, uri, version), sorted by uri, each once."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.records import ImageRef
from m2f_batch.storage import uris
from m2f_batch.storage.columns import TEXT, chunks_of, first_of_each, joined, taken, text_column
from m2f_batch.storage.hidden import is_hidden
from m2f_batch.storage.image_names import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS  # also imported from here
from m2f_batch.storage.image_names import extension_of, is_image_name
from m2f_batch.storage.manifests import READERS, kept_columns, parse_json, resolved
from m2f_batch.storage.names import bare, resolve_names
from m2f_batch.storage.places import open_store, stat_many
from m2f_batch.storage.retries import steadily
from m2f_batch.storage.store import Denied, Entry, ObjectError, Store, StoreUnavailable, Unreachable
from m2f_batch.terminal import say

_FORMS = "a directory, an s3:// prefix, a glob, one file, a manifest (.parquet, .csv, .jsonl, .txt) or a COCO .json"


@dataclass(frozen=True)
class Listing:
    """The images of an INPUT.

    ``table`` is sorted by uri: ``image_id`` (int64), ``uri`` and ``version`` (string), then a manifest's other columns,
    or ``coco_id`` (int64). ``skipped`` counts files that are no images by their name, ``duplicates`` the entries whose
    uri had come before.
    """

    table: pa.Table
    skipped: int
    duplicates: int


def list_input(uri: str, *, root: str | None = None) -> Listing:
    """The images of INPUT; ``root`` is the folder of a COCO JSON's file names, by default the JSON's own.

    An image that a manifest or a COCO JSON names and that cannot be seen has the version "". A manifest's own columns
    ``image_id`` and ``version`` become ``input_image_id`` and ``input_version``. Raises UsageError for an INPUT that is
    wrong, refused or without images; RunError for two uris with one id, or a store that does not answer for now.
    """
    with _usage():
        return steadily(lambda: _listed(uri, root))


def _listed(uri: str, root: str | None) -> Listing:
    place = uris.normalise(uri)
    store = open_store(place)
    kind = _kind(store, uri, place)
    if root is not None and kind != "json":
        raise UsageError(f"input.root: {root!r} goes with a COCO JSON (its file names), and {uri!r} is none; leave it")
    if kind == "json":
        listing = _of_coco(store, place, root)
    elif kind in READERS:
        listing = _of_manifest(store, place, READERS[kind])
    elif kind == "file":
        listing = _of_entries(iter([_required(store, place)]), lambda entry: True)
    else:
        listing = _of_glob(store, uri) if kind == "glob" else _of_folder(store, place)
    if not listing.table.num_rows:
        taken = "any extension" if kind == "glob" else ", ".join(sorted(IMAGE_EXTENSIONS)) + ", or no extension"
        raise UsageError(f"input.uri: {uri!r} has no images ({listing.skipped} files skipped); taken are: {taken}")
    return listing


def check_output(input_uri: str, output_uri: str) -> None:
    """Raises UsageError if OUTPUT is INPUT or lies inside it, where a next run would list our own files."""
    folder = uris.normalise(input_uri)
    if uris.has_glob(input_uri) and not os.path.exists(folder):
        folder = uris.split_glob(input_uri)[0]
    try:
        target = uris.normalise(output_uri)
    except UsageError as error:
        raise UsageError(f"output.uri: {error}") from error
    if uris.has_glob(input_uri) and not os.path.exists(uris.normalise(input_uri)):
        # a glob takes only what it matches: it must not match what a run writes
        matches = _glob_matcher(uris.split_glob(input_uri)[1])
        written = (uris.below(folder, f"{target}/{name}") for name in ("run.json", "annotations/0.parquet"))
        is_inside = target == folder or any(matches(name) for name in written)
    else:
        is_inside = uris.is_inside(target, folder)
    if is_inside:
        raise UsageError(
            f"output.uri: {output_uri!r} is, or lies inside, input.uri {input_uri!r}; choose another place"
        )


@contextmanager
def _usage() -> Iterator[None]:
    """What is wrong with a place is, here, what is wrong with the command: nothing has been written yet."""
    try:
        yield
    except UsageError as error:
        raise (error if str(error).startswith("input.") else UsageError(f"input.uri: {error}")) from error.__cause__
    except (TransientError, Unreachable) as error:
        raise RunError(f"input.uri: {error}; the same command may succeed later") from error
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError(f"input.uri: {error}") from error


def _kind(store: Store, uri: str, place: str) -> str:
    """folder, glob, file, json, or the extension of a manifest. What is there wins over what it could mean."""
    try:
        entry = None if uri.endswith("/") else store.stat(place)
    except Denied:  # keys that may read a prefix need not read the object of its name
        entry = None
    if entry is not None:
        extension = extension_of(place)
        return extension if extension == "json" or extension in READERS else "file"
    if store.is_folder(place):
        return "folder"
    if uris.has_glob(uri):
        return "glob"
    raise UsageError(f"input.uri: {uri!r}: there is no such file, directory or prefix; wanted {_FORMS}")


def _required(store: Store, place: str) -> Entry:
    entry = store.stat(place)
    if entry is None:
        raise UsageError(f"input.uri: {place!r} has just vanished")
    return entry


# ---- files


def _of_folder(store: Store, folder: str) -> Listing:
    def is_taken(entry: Entry) -> bool:
        path = uris.below(folder, entry.uri)
        # of a link that leads nowhere the size is not known
        return not is_hidden(path) and is_image_name(path, is_empty=not entry.size and bool(entry.version))

    return _of_entries(store.list(folder), is_taken)


def _of_glob(store: Store, uri: str) -> Listing:
    folder, pattern = uris.split_glob(uri)
    matches = _glob_matcher(pattern)
    found = (entry for entry in store.list(folder, uris.glob_start(pattern)) if matches(uris.below(folder, entry.uri)))
    return _of_entries(found, lambda entry: True)


def _glob_matcher(pattern: str) -> Callable[[str], object]:
    from fsspec.utils import glob_translate

    try:
        return re.compile(glob_translate(pattern)).match
    except (ValueError, re.error) as error:
        message = f"input.uri: {pattern!r} is no valid glob: '**' stands alone between slashes ({error})"
        raise UsageError(message) from error


def _of_entries(entries: Iterator[Entry], is_taken: Callable[[Entry], bool]) -> Listing:
    names: list[pa.Array] = []
    versions: list[pa.Array] = []
    skipped = 0
    for chunk in chunks_of(entries):
        images = [entry for entry in chunk if is_taken(entry) and _is_text(entry.uri)]
        names.append(pa.array([entry.uri for entry in images], TEXT))
        versions.append(pa.array([entry.version for entry in images], TEXT))
        skipped += len(chunk) - len(images)
    named, versioned = joined(names), joined(versions)
    del names, versions
    return _listing(named, versioned, None, skipped)


def _is_text(uri: str) -> bool:
    """Whether a column of strings can hold it: a disk's file names are bytes, in any encoding or none."""
    try:
        return uri.isascii() or bool(uri.encode())
    except UnicodeEncodeError:
        return False


# ---- manifests and COCO


def _of_manifest(store: Store, place: str, reader: Callable[[bytes], pa.Table]) -> Listing:
    with _named(place):
        table = reader(store.read(place))
    columns = table.column_names
    if "uri" not in columns or len(set(columns)) < len(columns):
        raise UsageError(f"input.uri: {place!r} needs one column 'uri', and no column twice; it has {columns}")
    with _named(place):
        kept, names = kept_columns(table), resolved(table["uri"], uris.parent(place))
    del table  # at a million images, every copy of their names counts
    return _listing(names, None, kept, 0)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """What is wrong with a manifest, with its name."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"input.uri: {place!r} cannot be read: {str(error).splitlines()[0]}") from error
    except UsageError as error:
        raise UsageError(f"input.uri: {place!r}: {error}") from error


def _of_coco(store: Store, place: str, root: str | None) -> Listing:
    document = parse_json(store.read(place), f"input.uri: {place!r}")
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise UsageError(f"input.uri: {place!r} is no COCO JSON: it has no list 'images'")
    seen: dict[int, str] = {}
    for position, image in enumerate(images):
        name, number = (image.get("file_name"), image.get("id")) if isinstance(image, dict) else (None, None)
        if not isinstance(name, str) or not name or type(number) is not int or not -(2**63) <= number < 2**63:
            raise UsageError(f"input.uri: {place!r}: images[{position}] needs a text 'file_name' and an integer 'id'")
        if seen.setdefault(number, name) != name:
            raise UsageError(f"input.uri: {place!r}: the id {number} is that of {seen[number]!r} and of {name!r}")
    folder = uris.parent(place) if root is None else _root(root)
    ids = pa.array([image["id"] for image in images], pa.int64())
    names = [image["file_name"] for image in images]
    found = resolve_names(names, folder, IMAGE_EXTENSIONS, takes_urls=root is not None)
    for at, fault in found.faults.items():
        raise UsageError(f"input.uri: {place!r}: images[{at}]: file_name {bare(names[at])!r}: {fault}")
    say(*(f"note: input.uri: {place}: {line}" for _, line in found.said(names, folder)), file=sys.stderr)
    try:
        column = text_column(uri for uri in found.uris if uri is not None)
    except UnicodeEncodeError as error:
        raise UsageError(f"input.uri: a listed uri is not valid Unicode: {error.object!r}") from error
    return _listing(column, None, pa.table({"coco_id": ids}), 0)


def _root(root: str) -> str:
    try:
        return uris.normalise(root)
    except UsageError as error:
        raise UsageError(f"input.root: {error}") from error


# ---- the table


def _listing(names: pa.Array, versions: pa.Array | None, kept: pa.Table | None, skipped: int) -> Listing:
    """``versions`` None: to be looked up. Of a uri that comes twice the first entry wins."""
    rows = first_of_each(names)
    duplicates = len(names) - len(rows)
    ordered = taken(names, rows)
    del names
    found = _looked_up(ordered) if versions is None else taken(versions, rows)
    table = pa.table({"image_id": pa.array(_ids(ordered, found)), "uri": ordered, "version": found})
    if kept is not None:
        chosen = kept.take(pa.array(rows))
        for name in chosen.column_names:
            table = table.append_column(name, chosen[name])
    pa.default_memory_pool().release_unused()  # it would keep as much again, for as long as the driver lives
    return Listing(table, skipped, duplicates)


def _looked_up(names: pa.ChunkedArray) -> pa.ChunkedArray:
    found = (stat_many(chunk.to_pylist()) for chunk in names.chunks)
    parts = [pa.array([entry.version if entry else "" for entry in entries], pa.string()) for entries in found]
    return pa.chunked_array(parts, pa.string())


def _ids(names: pa.ChunkedArray, versions: pa.ChunkedArray) -> NDArray[np.int64]:
    """The image ids of rows in chunks of the same sizes."""
    ids = np.empty(len(names), np.int64)
    first = 0
    for some, theirs in zip(names.chunks, versions.chunks, strict=True):
        pairs = zip(some.to_pylist(), theirs.to_pylist(), strict=True)
        ids[first : first + len(some)] = [ImageRef(name, version).image_id for name, version in pairs]
        first += len(some)
    _check_unique(ids, names)
    return ids


def _check_unique(ids: NDArray[np.int64], names: pa.ChunkedArray) -> None:
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        row = again.min()
        first, second = names[int(np.argmax(ids == ids[row]))].as_py(), names[int(row)].as_py()
        raise RunError(f"{first!r} and {second!r} have the same image_id, {ids[row]}; rename one of them")
