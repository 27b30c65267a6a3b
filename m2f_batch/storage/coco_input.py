"""The images of a COCO JSON that is INPUT."""

import sys

import pyarrow as pa

from m2f_batch.errors import UsageError
from m2f_batch.storage import allow, uris
from m2f_batch.storage.columns import text_column
from m2f_batch.storage.image_names import IMAGE_EXTENSIONS
from m2f_batch.storage.listed import Listing, listing_of
from m2f_batch.storage.manifests import is_json_lines, named, parse_json, unpacked
from m2f_batch.storage.names import bare, resolve_names
from m2f_batch.storage.store import Store
from m2f_batch.terminal import say

_AS_LINES = "a list of rows is read as .jsonl: one object with a 'uri' a line"


def list_coco(store: Store, place: str, root: str | None) -> Listing:
    with named(place):
        data = unpacked(store.read(place))
    try:
        document = parse_json(data, f"input.uri: {place!r}")
    except UsageError as error:
        raise UsageError(f"{error}; {_AS_LINES}") if is_json_lines(data) else error from None
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        rows = f"; {_AS_LINES}" if isinstance(document, list) else ""
        raise UsageError(f"input.uri: {place!r} is no COCO JSON: it has no list 'images'{rows}")
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
    for at, uri in enumerate(found.uris):
        try:
            allow.check_web(uri or "")
        except UsageError as error:
            raise UsageError(f"input.uri: {place!r}: images[{at}]: {bare(names[at])!r}: {error}") from error
    say(*(f"note: input.uri: {place}: {line}" for _, line in found.said(names, folder)), file=sys.stderr)
    try:
        column = text_column(uri for uri in found.uris if uri is not None)
    except UnicodeEncodeError as error:
        raise UsageError(f"input.uri: a listed uri is not valid Unicode: {error.object!r}") from error
    return listing_of(column, None, pa.table({"coco_id": ids}), 0)


def _root(root: str) -> str:
    try:
        return uris.normalise(root)
    except UsageError as error:
        raise UsageError(f"input.root: {error}") from error
