"""Lists INPUT to the table of images to label: (image_id, uri, version), sorted by uri, each once."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from m2f_batch.backends import find_backend
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.inputs import kinds
from m2f_batch.inputs.coco_input import list_coco
from m2f_batch.inputs.columns import TEXT, joined
from m2f_batch.inputs.listed import Listing as Listing  # also imported from here
from m2f_batch.inputs.listed import listing_of
from m2f_batch.inputs.manifests import (
    READERS,
    is_part,
    joined_parts,
    kept_columns,
    kind_of,
    named,
    read_manifest,
    resolved,
    with_hive_columns,
)
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS  # also imported from here
from m2f_batch.inputs.names.images import extension_of, is_image_name, is_plain_image_name
from m2f_batch.inputs.places import check_listable, glob_matcher
from m2f_batch.storage import allow, uris
from m2f_batch.storage.driver_memory import Room
from m2f_batch.storage.places import open_place
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.store import Denied, Entry, ObjectError, Page, Store, StoreUnavailable, Unreachable

_FORMS = (
    "a directory, an s3:// prefix, a glob, one image, a manifest (.parquet, .csv, .tsv, .jsonl, .txt, or one of these "
    "as .gz, or a folder of Parquet) or a COCO .json"
)
MAX_SNIFFED = 1 << 30  # bytes of a file that is read because its name does not say what it is


def list_input(uri: str, *, root: str | None = None) -> Listing:
    """Lists the images of INPUT. ``root`` is the folder of a COCO JSON's file names, by default the JSON's own.

    An image that a manifest or a COCO JSON names and that cannot be seen has the version "". A manifest's own columns
    ``image_id`` and ``version`` become ``input_image_id`` and ``input_version``. Raises UsageError for an INPUT that is
    wrong, refused or without images, and RunError for two uris with one id, or a store that does not answer for now.
    """
    with _usage():
        return retry_before_run(lambda: _listed(uri, root))


def _listed(uri: str, root: str | None) -> Listing:
    opened = open_place(uri)
    place, store = opened.uri, opened.store
    kind = _kind(store, uri, place)
    if root is not None and kind != "json":
        raise UsageError(
            f"goes with a COCO JSON (its file names), and {uri!r} is none",
            field="input.root",
            value=root,
            hint="leave it",
        )
    if kind == "json":
        listing = list_coco(store, place, root)
    elif kind in READERS:
        listing = _of_manifest(store, place, kind)
    elif kind == "file":
        listing = _of_pages([Page.of([_required(store, place)])])
    else:
        listing = _of_glob(store, uri) if kind == "glob" else _of_folder(store, place)
    if not listing.table.num_rows and kind in (*READERS, "json"):
        raise UsageError("has no images: it names none", field="input.uri", value=uri)
    if not listing.table.num_rows and kind == "glob":
        problem, hint = "matches no file", "* stays in one folder, ** goes below"
        if listing.skipped:
            problem = f"matches only names that are no UTF-8 ({listing.skipped} files), which rows cannot hold"
            hint = "rename them"
        raise UsageError(problem, field="input.uri", value=uri, hint=hint)
    if not listing.table.num_rows:
        taken = ", ".join(sorted(IMAGE_EXTENSIONS)) + ", or no extension"
        there = f"; there are {'; '.join(listing.notes)}" if listing.notes else ""
        problem = f"has no images ({listing.skipped} files skipped); taken are: {taken}{there}"
        raise UsageError(problem, field="input.uri", value=uri)
    return listing


@contextmanager
def _usage() -> Iterator[None]:
    """Raises what is wrong with a place as a mistake in the command, because nothing has been written yet."""
    try:
        yield
    except UsageError as error:
        named = error if error.field in ("input.uri", "input.root") else UsageError.about("input.uri", error)
        raise named from error.__cause__
    except (TransientError, Unreachable) as error:
        raise RunError.about("input.uri", error, hint="the same command may succeed later") from error
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError.about("input.uri", error) from error


def _kind(store: Store, uri: str, place: str) -> str:
    """Returns folder, glob, file, json or a manifest's extension. What is there wins over what it could mean."""
    check_listable(uri)
    try:
        entry = None if uri.endswith("/") else store.stat(place)
    except Denied:  # keys that may read a prefix need not read the object of its name
        entry = None
    if entry is not None:
        kind = kind_of(place)
        if kind is None:
            _check_image(store, place, entry)
        return kind or "file"
    if store.is_folder(place):
        return "folder"
    if uris.has_glob(uri):
        return "glob"
    raise UsageError(
        f": there is no such file, directory or prefix{_meant(uri)}; wanted {_FORMS}", field="input.uri", value=uri
    )


def _meant(uri: str) -> str:
    """Returns what may be meant by a place that is not there."""
    if uri.startswith("$"):
        return " ('~' is put in, '$NAME' is not)"
    scheme = re.match(r"([a-z][a-z0-9+.]+):/?(?!/)", uri)
    if scheme and find_backend(scheme[1]) is not None:
        return f" (a URI begins with {scheme[1]}://)"
    bare = uri.strip().strip("\"'")
    return f" (there is {bare!r})" if bare != uri and bare and os.path.exists(uris.expanded(bare)) else ""


def _check_image(store: Store, place: str, entry: Entry) -> None:
    """Raises UsageError for one file that is no image: by its name, or where that says nothing by its bytes."""
    if extension_of(place) in IMAGE_EXTENSIONS:
        return
    foreign = kinds.foreign_name(place)
    if foreign is None and entry.size <= MAX_SNIFFED:
        data = store.read(place)
        if kinds.is_image(data):
            return
        foreign = kinds.foreign_bytes(data)
    what, advice = foreign or ("neither an image nor a list of images, by its name and its bytes", "give another file")
    raise UsageError(f"is {what}: {advice}; wanted {_FORMS}", field="input.uri", value=place)


def _required(store: Store, place: str) -> Entry:
    entry = store.stat(place)
    if entry is None:
        raise UsageError("has just vanished", field="input.uri", value=place)
    return entry


# ---- files


def _of_folder(store: Store, folder: str) -> Listing:
    parts: list[str] = []
    others: Counter[str] = Counter()

    def is_taken(path: str, entry: Entry) -> bool:
        if is_hidden(path):
            return False
        # of a link that leads nowhere the size is not known
        if is_image_name(path, is_empty=not entry.size and bool(entry.version)):
            return True
        if is_part(path):
            parts.append(entry.uri)
        others[extension_of(path)] += 1
        return False

    def are_taken(page: Page) -> list[object]:
        paths = uris.all_below(folder, page.uris)
        entries = zip(paths, map(is_plain_image_name, paths), page.entries(), strict=True)
        return [is_plain or is_taken(path, entry) for path, is_plain, entry in entries]

    listing = _of_pages(store.pages(folder), are_taken)
    if parts and not listing.table.num_rows:
        return _of_parts(store, folder, sorted(parts), listing.skipped - len(parts))
    named = ", ".join(f"{count:,} x .{extension}" for extension, count in others.most_common(3) if extension)
    return replace(listing, notes=(named,)) if named and not listing.table.num_rows else listing


def _of_parts(store: Store, folder: str, parts: list[str], skipped: int) -> Listing:
    """Lists the images that a folder of Parquet names, as Spark writes one: a manifest in parts, with images beside."""
    tables = []
    for part in parts:
        with named(part):
            table = read_manifest("parquet", store.read(part)).table
            tables.append(with_hive_columns(table, uris.below(folder, part)))
    with named(folder):
        table = joined_parts(tables)
    return _of_rows(folder, table, skipped)


def _of_glob(store: Store, uri: str) -> Listing:
    folder, pattern = uris.split_glob(uri)
    matches = glob_matcher(pattern)
    found = store.pages(folder, uris.glob_start(pattern))
    listing = _of_pages(page.chosen([*map(matches, uris.all_below(folder, page.uris))]) for page in found)
    names = (name.as_py() for name in listing.table["uri"])
    if listing.table.num_rows and all(kind_of(name) or kinds.foreign_name(name) for name in names):
        first = listing.table["uri"][0].as_py()
        what, advice = kinds.foreign_name(first) or ("a manifest", "give one manifest, or a folder of Parquet")
        raise UsageError(
            f"matches no image, but {first!r} and the like, {what}: {advice}", field="input.uri", value=uri
        )
    return listing


def _of_pages(pages: Iterable[Page], are_taken: Callable[[Page], Sequence[object]] | None = None) -> Listing:
    names: list[pa.Array] = []
    versions: list[pa.Array] = []
    skipped, room = 0, Room()
    for page in pages:
        images = page if are_taken is None else page.chosen(are_taken(page))
        try:
            names.append(pa.array(images.uris, TEXT))
        except UnicodeEncodeError:
            images = images.chosen([_is_text(uri) for uri in images.uris])
            names.append(pa.array(images.uris, TEXT))
        versions.append(pa.array(images.versions, TEXT))
        room.take(names[-1], versions[-1])
        skipped += len(page.uris) - len(images.uris)
    named, versioned = joined(names), joined(versions)
    del names, versions
    return listing_of(named, versioned, None, skipped)


def _is_text(uri: str) -> bool:
    """Tells whether a column of strings can hold it. A disk's file names are bytes, in any encoding or none."""
    try:
        return uri.isascii() or bool(uri.encode())
    except UnicodeEncodeError:
        return False


# ---- manifests and COCO


def _of_manifest(store: Store, place: str, kind: str) -> Listing:
    with named(place):
        table, comments = read_manifest(kind, store.read(place))
    listing = _of_rows(place, table, 0)
    _check_names(place, listing.table)
    if not comments:
        return listing
    note = (
        f"lines taken for comments, since they begin with '#': {comments:,}; a file of such a name is written ./#name"
    )
    return replace(listing, notes=(*listing.notes, note))


def _check_names(place: str, table: pa.Table) -> None:
    """Raises UsageError for a list of paths of which none can be seen and each looks like prose or another file."""
    rows = zip(table["uri"], table["version"], strict=True)
    if table.num_rows and all(not version.as_py() and _is_no_image(uri.as_py()) for uri, version in rows):
        problem = f"names no file that can be seen, nor an image by its extension, e.g. {table['uri'][0].as_py()!r}"
        hint = "a list of images has a path or URI of one in each row"
        raise UsageError(problem, field="input.uri", value=place, hint=hint)


def _is_no_image(uri: str) -> bool:
    """Tell whether a path's last part has blanks or another extension. Without either it may be an image's key."""
    if uris.root(uri) or not allow.is_allowed(uri):
        return False
    extension = extension_of(uri)
    return extension not in IMAGE_EXTENSIONS and (bool(extension) or " " in uri.rpartition("/")[2])


def _of_rows(place: str, table: pa.Table, skipped: int) -> Listing:
    with named(place):
        kept, names = kept_columns(table), resolved(table["uri"], uris.parent(place))
    del table  # at a million images, every copy of their names counts
    return listing_of(names, None, kept, skipped)
