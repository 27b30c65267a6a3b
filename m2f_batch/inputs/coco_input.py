"""Lists the images of a COCO JSON that is INPUT."""

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa

from m2f_batch.errors import UsageError
from m2f_batch.inputs.columns import text_column
from m2f_batch.inputs.listed import Listing, listing_of
from m2f_batch.inputs.manifests import is_json_lines, named, unpacked
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.resolved import bare, images_around, resolve_names
from m2f_batch.storage import allow, uris
from m2f_batch.storage.json_text import parse_json
from m2f_batch.storage.store import Store

_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(\.0*)?\s*", re.ASCII)
_AS_LINES = "a list of rows is read as .jsonl: one object with a 'uri' a line"


def whole(value: Any) -> int | None:
    """Returns the whole number that a value is, however it is spelled, or None where it is none.

    >>> [whole(value) for value in (1, 1.0, "1", "1.0", 1.5, True, "a", None)]
    [1, 1, 1, 1, None, None, None, None]
    """
    if type(value) is int:
        return value
    if type(value) is float:
        return int(value) if value.is_integer() else None
    match = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else None


def list_coco(store: Store, place: str, root: str | None) -> Listing:
    """Lists the images of a COCO JSON, whose file names are resolved against ``root``, else its own folder.

    Images without ``file_name`` have the name that ``coco_url`` is, as in LVIS. Raises UsageError.
    """
    images = _images(store, place)
    names, numbers = _names_and_ids(images, place)
    folder = uris.parent(place) if root is None else _root(root)
    around, bases = images_around(folder) if root is None else folder, [folder] * len(names)
    found = resolve_names(names, around, IMAGE_EXTENSIONS, bases=bases, takes_urls=root is not None)
    for at, fault in found.faults.items():
        raise UsageError(f": images[{at}]: file_name {bare(names[at])!r}: {fault}", field="input.uri", value=place)
    for at, uri in enumerate(found.uris):
        try:
            allow.check_web(uri or "")
        except UsageError as error:
            here = "; where the files are in a folder, give it as input.root"
            raise UsageError(
                f": images[{at}]: {bare(names[at])!r}: {error}{here}", field="input.uri", value=place
            ) from error
    try:
        column = text_column(uri for uri in found.uris if uri is not None)
    except UnicodeEncodeError as error:
        raise UsageError(f"a listed uri is not valid Unicode: {error.object!r}", field="input.uri") from error
    listing = listing_of(column, None, pa.table({"coco_id": pa.array(numbers, pa.int64())}), 0)
    return replace(listing, notes=(*(line for _, line in found.said(names, around)), *listing.notes))


def _images(store: Store, place: str) -> list[Any]:
    with named(place):
        data = unpacked(store.read(place))
    try:
        document = parse_json(data, f"input.uri: {place!r}")
    except UsageError as error:
        raise (error.with_hint(_AS_LINES) if is_json_lines(data) else error) from None
    images = document.get("images") if isinstance(document, dict) else None
    images = [*images.values()] if isinstance(images, dict) else images  # as in LIVECell
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        rows = f"; {_AS_LINES}" if isinstance(document, list) else ""
        raise UsageError(f"is no COCO JSON: it has no list 'images'{rows}", field="input.uri", value=place)
    return images


def _names_and_ids(images: list[Any], place: str) -> tuple[list[str], list[int]]:
    seen: dict[int, str] = {}
    names, numbers = list[str](), list[int]()
    for position, image in enumerate(images):
        name, number = image.get("file_name") or image.get("coco_url"), whole(image.get("id"))
        if not isinstance(name, str) or not name or number is None or not -(2**63) <= number < 2**63:
            raise UsageError(
                f": images[{position}] needs a text 'file_name' and an integer 'id'", field="input.uri", value=place
            )
        if seen.setdefault(number, name) != name:
            raise UsageError(
                f": the id {number} is that of {seen[number]!r} and of {name!r}", field="input.uri", value=place
            )
        names.append(name)
        numbers.append(number)
    return names, numbers


def _root(root: str) -> str:
    try:
        return uris.normalize(root)
    except UsageError as error:
        raise UsageError.about("input.root", error) from error
