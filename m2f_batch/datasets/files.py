"""Reads the files of a dataset, local or in a store, many at a time: JSON, text, listings, mask PNGs."""

import io
import itertools
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2f_batch.datasets.findings import Finding, Report, examples
from m2f_batch.datasets.pixel_cap import check_mask_size, opening
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.images import extension_of
from m2f_batch.inputs.names.resolved import bare, resolve_names
from m2f_batch.messages.reading_progress import with_progress
from m2f_batch.processes import in_threads
from m2f_batch.storage import uris
from m2f_batch.storage.json_text import parse_json
from m2f_batch.storage.places import open_place, open_store
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.storage.store import NotFound, ObjectError, StoreUnavailable, Unreadable

_T = TypeVar("_T")
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF
_AHEAD = 64  # files under way per thread, so that few results wait for their turn

Row = dict[str, Any]
Read = tuple[Row | None, list[Finding]]


def is_text(value: Any) -> bool:
    """Says whether a value of a JSON can be a name: a text that is not blank and can be encoded."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        return bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def fetch(uri: str) -> bytes:
    """Returns the bytes of a file, asked for again where it fails in passing. Raises ObjectError, StoreUnavailable."""
    return retry_before_run(lambda: open_store(uri).read(uri))


def read_bytes(uri: str, field: str) -> bytes:
    """Returns a file that must be there. Raises UsageError, which begins with ``field``."""
    try:
        return fetch(uri)
    except (ObjectError, StoreUnavailable, UsageError) as error:
        is_a_folder = isinstance(error, Unreadable) and is_folder(uri, field)
        hint = "give the file in it, or data.format for a folder of annotations" if is_a_folder else ""
        raise UsageError.about(field, error, hint=hint) from error


def read_json(uri: str, field: str) -> Any:
    """A JSON file that must be there. Raises UsageError, which begins with ``field``."""
    return parse_json(read_bytes(uri, field), repr(uri), field=field)


def read_text(uri: str, field: str) -> str:
    """A UTF-8 text that must be there. Raises UsageError, which begins with ``field``."""
    try:
        return read_bytes(uri, field).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"is not UTF-8 text: {error}", field=field, value=uri) from error


@contextmanager
def or_written(how: str) -> Iterator[None]:
    """Says of a file that is not there ``how`` what it would hold is written in its place."""
    try:
        yield
    except UsageError as error:
        if isinstance(error.__cause__, NotFound):
            raise error.with_hint(how) from error.__cause__
        raise


def folder_of(uri: str, field: str) -> str:
    """Returns the one spelling of a folder that must be there."""
    try:
        place = open_place(uri)
        if place.store.is_folder(place.uri):
            return place.uri
    except (ObjectError, StoreUnavailable, UsageError) as error:
        raise UsageError.about(field, error) from error
    raise UsageError(": there is no such folder", field=field, value=uri)


def is_folder(uri: str, field: str) -> bool:
    """Says whether there is such a folder. Raises UsageError where that cannot be known."""
    try:
        place = open_place(uri)
        return place.store.is_folder(place.uri)
    except (ObjectError, StoreUnavailable, UsageError) as error:
        raise UsageError.about(field, error) from error


def exists(uri: str) -> bool:
    """Says whether there is such a file."""
    return open_store(uri).exists(uri)


def list_files(folder: str, extensions: Iterable[str], report: Report | None = None) -> dict[str, str]:
    """Lists files below a folder by their path below it without extension, sorted. Hidden ones are reported instead.

    Raises UsageError for two files that differ in their extension only.
    """
    wanted, found, hidden = frozenset(extensions), dict[str, str](), list[str]()
    for uri in sorted(entry.uri for entry in open_store(folder).list(folder)):
        path = uris.below(folder, uri)
        stem, extension = posixpath.splitext(path)
        if extension.removeprefix(".").lower() not in wanted:
            continue
        if is_hidden(path):
            hidden.append(path)
            continue
        if stem in found:
            raise UsageError(f"{found[stem]!r} and {uri!r} have one name; which of them is it?")
        found[stem] = uri
    if hidden and report is not None:
        report(Finding("hidden-file", folder, f"{len(hidden):,} hidden files are skipped ({examples(hidden)})"))
    return found


def list_all(folder: str, extensions: Collection[str], most: int | None = None) -> list[str]:
    """Returns the uris of all files with one of ``extensions`` below a folder, sorted, without the hidden ones.

    ``most``: how many files of any kind are looked at.
    """
    listed = sorted(entry.uri for entry in itertools.islice(open_store(folder).list(folder), most))
    return [uri for uri in listed if extension_of(uri) in extensions and not is_hidden(uris.below(folder, uri))]


def list_images(folder: str, report: Report | None = None) -> dict[str, str]:
    """Returns ``list_files`` of images."""
    return list_files(folder, IMAGE_EXTENSIONS, report)


def find_named(
    names: Sequence[str],
    folder: str,
    report: Report,
    where: Callable[[int], str],
    *,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    bases: Sequence[str] | None = None,
    takes_urls: bool = False,
    but: str | None = None,
) -> list[str | None]:
    """Returns the uris of the files that annotations name, by ``resolve_names``, which explains the arguments.

    ``where`` says of a position which entry of which file has the name. Names that are read otherwise, or have none but
    near misses, are reported once, with their number; a name that is no place is a finding of its own, and None.
    """
    found = resolve_names(names, folder, extensions, bases=bases, takes_urls=takes_urls, but=but)
    for at, fault in found.faults.items():
        advice = "" if takes_urls else "; where the folder of the images is given, their names are looked for in it"
        report(Finding("malformed", where(at), f"{bare(names[at])!r} names no file: {fault}{advice}"))
    for at, line in found.said(names, folder):
        report(Finding("near-name" if at in found.near else "other-name", where(at), line))
    return found.uris


def indices_of(image: Image.Image, data: bytes) -> NDArray[Any]:
    """Returns the values of a mask that ``open_mask`` has opened, integer [H, W]. Raises DecodeError."""
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise DecodeError(
            "UnsupportedMode", f"a {image.format} of mode {image.mode}; wanted one channel, gray or palette"
        )
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if tags.get(_PHOTOMETRIC) == 0 or tags.get(_BITS, (1,))[0] not in (8, 16, 32):
            raise DecodeError("UnsupportedMode", "a TIFF whose values are not 8, 16 or 32 bits from 0 for black")
    values = np.asarray(image)
    bits, color = data[24], data[25]  # of the IHDR chunk of a PNG, which comes first
    if image.format == "PNG" and color == 0 and bits in (2, 4):  # gray, which Pillow scales to 0..255
        return values // (255 // (2**bits - 1))
    return values.astype(np.uint8) if values.dtype == bool else values


def read_rgb_ids(uri: str) -> NDArray[np.int32]:
    """Reads the ids of a panoptic PNG, R + 256 G + 65536 B, as [H, W]. Of a palette they are those of its colors.

    Gray values cannot be ids of colors, and 16 bits are cut by the library. Raises DecodeError, ObjectError.
    """
    image, data = open_mask(uri)
    bits = data[24]  # of the IHDR chunk
    if image.format != "PNG":
        raise DecodeError("UnsupportedMode", f"a {image.format}; panoptic masks are PNG")
    if image.mode not in ("RGB", "RGBA", "P") or bits > 8:
        given = f"a PNG of mode {image.mode} with {bits} bits"
        raise DecodeError("UnsupportedMode", f"{given}; a panoptic PNG is RGB of 8 bits, with id = R + 256 G + 65536 B")
    colors = image.convert("RGB") if image.mode == "P" else image  # RGBA: what is transparent has an id, too
    red, green, blue = np.moveaxis(np.asarray(colors)[..., :3].astype(np.int32), 2, 0)
    return red + (green << 8) + (blue << 16)


def open_mask(uri: str) -> tuple[Image.Image, bytes]:
    """Returns a PNG or TIFF, loaded, and its bytes. Raises DecodeError, ObjectError."""
    data = fetch(uri)
    try:
        with opening():
            image = Image.open(io.BytesIO(data), formats=["PNG", "TIFF"])
            check_mask_size(*image.size)
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError("Corrupt", f"cannot be read as PNG: {' '.join(str(error).split())[:200]}") from error
    return image, data


def rows_of(
    read_one: Callable[[_T], Read],
    items: Iterable[_T],
    report: Report,
    image_of: Callable[[_T], str | None] = lambda item: None,
    *,
    total: int | None = None,
) -> Iterator[Row]:
    """Reads each item by ``read_one``, in order, in threads, and reports its findings in this thread.

    They are of the image that ``image_of`` an item says, or else of the ``uri`` of the row. Progress is said. ``total``
    is the number of items where they have no length.
    """
    total = len(items) if isinstance(items, Sized) else total
    threads = min(32, os.cpu_count() or 1)
    # closed at once where a report raises, because a collector may end threads while it holds a lock that they want
    with closing(in_threads(read_one, items, threads, _AHEAD * threads)) as read:
        for item, (row, findings) in with_progress(read, total, "files of annotated images"):
            image = image_of(item) or (None if row is None else row.get("uri"))
            for finding in findings:
                report(finding if image is None else replace(finding, image=image))
            if row is not None:
                yield row


def numbered(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields rows by uri with the image ids 1, 2, 3, ..."""
    for image_id, row in enumerate(sorted(rows, key=lambda row: row["uri"]), 1):
        yield row | {"image_id": image_id}
