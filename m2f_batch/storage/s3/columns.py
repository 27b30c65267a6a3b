"""Reads a page of a bucket's list as columns, from its XML without an object for each element.

botocore's parser takes some 80 us of CPU for each key, for types and dates that nobody asks for. This takes some 2 us.
A page that is not just what S3 servers write is left to that parser. The requests stay botocore's own.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

REPLY = "M2FBatchColumns"  # what the columns are called in a reply
_ROW, _END = b"<Contents>", b"</Contents>"
_FIELD = re.compile(r"<(Contents|Key|ETag|Size|CommonPrefixes)>([^<]*)")
_FIELDS = ("Contents", "ETag", "Key", "Size")
_CONTROLS = bytes([*range(32), 127])


class Columns(NamedTuple):
    """Holds keys in the order of the page, sizes in bytes, ETags without quotes."""

    keys: Sequence[str]
    sizes: Sequence[int]
    etags: Sequence[str]


def register(client: Any) -> None:
    """Makes a client's replies to ``list_objects_v2`` have columns in place of "Contents", where they can."""
    # the wildcard, since what it names comes first: botocore's own look at a body for errors parses all of it
    client.meta.events.register_first("before-parse.*.ListObjectsV2", _take_columns)


def columns(reply: Any) -> Columns:
    """Returns the objects on a page, of a client that is registered or not."""
    taken = reply.get(REPLY)
    if taken is None:
        listed = reply.get("Contents", [])
        etags = [found["ETag"].strip('"') for found in listed]
        return Columns([found["Key"] for found in listed], [found["Size"] for found in listed], etags)
    return taken._replace(keys=_decoded(taken.keys)) if reply.get("EncodingType") == "url" else taken


def _take_columns(response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    taken = cut(response_dict["body"]) if response_dict["status_code"] == 200 else None
    if taken is not None:
        response_dict["body"], customized_response_dict[REPLY] = taken


def cut(body: bytes) -> tuple[bytes, Columns] | None:
    """Splits a page's XML from its objects, whose keys are as written. Returns None where a parser must look.

    >>> cut(b"<L><N>b</N><Contents><Key>a</Key><ETag>&quot;12&quot;</ETag><Size>3</Size></Contents></L>")
    (b'<L><N>b</N></L>', Columns(keys=('a',), sizes=[3], etags=['12']))
    >>> cut(b"<L><Contents><Key>a&amp;b</Key><ETag>12</ETag><Size>3</Size></Contents></L>") is None
    True
    """
    first, end = body.find(_ROW), body.rfind(_END) + len(_END)
    if first < 0 or b"<!" in body or b"<?" in body[first:]:
        return None
    head = body[:first].lower()
    try:
        text = body[first:end].decode("ascii")
        names, values = zip(*_FIELD.findall(text), strict=True)
        count, order = len(names) // len(_FIELDS), names[: len(_FIELDS)]
        is_plain = names == order * count and order[0] == "Contents" and tuple(sorted(order)) == _FIELDS
        if not is_plain or any(text.count(f"</{name}>") != count for name in _FIELDS):
            return None
        of = {name: values[at :: len(_FIELDS)] for at, name in enumerate(order)}
        etags = [etag.replace("&quot;", '"').strip('"') for etag in of["ETag"]]
        found = Columns(of["Key"], [*map(int, of["Size"])], etags)
    except ValueError:  # no ASCII, no number, no row
        return None
    written = "".join((*found.keys, *etags)).encode()
    is_utf8 = b"encoding=" not in head or b"utf-8" in head
    if not is_utf8 or b"&" in written or len(written.translate(None, _CONTROLS)) != len(written):
        return None
    return body[:first] + body[end:], found


def _decoded(keys: Sequence[str]) -> Sequence[str]:
    """Decodes keys of a page as botocore does, all at once where they can be kept apart."""
    text = "\n".join(keys).replace("%2F", "/").replace("+", " ")  # some servers write each "/" so
    if "%0A" in text or "%0a" in text:
        return [unquote_plus(key) for key in keys]
    return (unquote(text) if "%" in text else text).split("\n")
