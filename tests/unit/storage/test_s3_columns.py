"""Pages of a bucket's list as columns: the keys, sizes and ETags that boto3 tells, by boto3's own parser."""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError
from botocore.parsers import ResponseParserError
from support.s3_servers import S3Endpoint

from m2f_batch.inputs.listing import list_input
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS, is_image_name, is_plain_image_name
from m2f_batch.records import ImageRef, image_ids
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3 import columns as s3_columns
from m2f_batch.storage.s3.columns import Columns, columns
from m2f_batch.storage.s3.store import S3Store
from m2f_batch.storage.store import PAGE, Entry, Page

pytest_plugins = ["support.s3_servers"]

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
END = "</ListBucketResult>"
AWKWARD = (
    *(
        "a.jpg",
        "a b.jpg",
        "a+b.jpg",
        "a%2Fb.jpg",
        "%0A.jpg",
        "%25.jpg",
        "100%.jpg",
        "%",
        "%2",
        "a&b<c>.jpg",
        "'\"`.jpg",
    ),
    *("a//b.jpg", "/a.jpg", "//a.jpg", "a/./b.jpg", "a/../b.jpg", "./a.jpg", "../a.jpg", ".", "..", "a/.", "a/.."),
    *(
        "in/",
        "in/in/",
        "in//",
        "in/a.jpg/",
        "in.jpg/",
        "/",
        "in",
        "in/a",
        "in-b/c.jpg",
        "in0.jpg",
        "date=2026-11-29/x.png",
    ),
    *("new\nline.jpg", "re\rturn.jpg", "\r\n.jpg", "tab\t.jpg", " a.jpg", "a.jpg ", "\n", "\x7f.jpg"),
    *("ü.jpg", "u\u0308.jpg", "日本/語.jpg", "😀.jpg", "\ue000.jpg", "\u2028.jpg", "\u0085.jpg", "\ufeff.jpg", "ﬆ.jpg"),
    *(
        ".hidden/a.jpg",
        "@eaDir/a.jpg",
        "lost+found/a.jpg",
        "loﬆ+found/a.jpg",
        "_a.jpg",
        "__MACOSX/a.jpg",
        "a.JPG",
        "README",
    ),
    *("a.txt", "a.jpg.txt", "~tilde.jpg", "a:b;c,d?e#f.jpg", "a\\b.jpg", "[x]{y}|^.jpg", "x" * 900 + ".jpg"),
)
ROW = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-29T17:50:53.601Z</LastModified><ETag>{etag}</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def _row(key: str, etag: str = "&quot;d41d8cd98f00b204e9800998ecf8427e&quot;", size: object = 3) -> str:
    return ROW.format(key=key, etag=etag, size=size)


def _page(*rows: str, encoding: str = "<EncodingType>url</EncodingType>", after: str = "<KeyCount>1</KeyCount>") -> str:
    return f"{HEAD}<Name>bucket</Name><IsTruncated>false</IsTruncated>{encoding}{''.join(rows)}{after}{END}"


_BODY: list[bytes] = []


class _Raw:
    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, **_: object) -> Any:
        yield self.body


@cache
def _client(*, is_registered: bool) -> Any:
    """A client whose server sends what ``_BODY`` holds."""
    config = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client: Any = boto3.session.Session().client("s3", "us-east-1", config=config, **keys)
    client.meta.events.register(
        "before-send.s3", lambda request, **_: AWSResponse(request.url, 200, {}, _Raw(_BODY[0]))
    )
    if is_registered:
        s3_columns.register(client)
    return client


def _reply(body: bytes, *, is_registered: bool) -> Any:
    _BODY[:] = [body]
    return _client(is_registered=is_registered).list_objects_v2(Bucket="bucket")


def _told(body: bytes, *, is_registered: bool) -> Any:
    try:
        reply = _reply(body, is_registered=is_registered)
        return Columns(*map(list, columns(reply))), sorted(reply.keys() - {"Contents", s3_columns.REPLY, "Prefix"})
    except (ResponseParserError, ClientError, KeyError, ValueError, AttributeError) as error:
        return type(error)


def _check(body: str | bytes, *, is_cut: bool) -> None:
    """Equal to boto3, and by the columns where they are ``is_cut``."""
    data = body if isinstance(body, bytes) else body.encode()
    assert (s3_columns.cut(data) is not None) == is_cut
    assert _told(data, is_registered=True) == _told(data, is_registered=False)


CUT = {
    "AWS": _page(_row("a/b.jpg"), _row("c%2B+d.jpg", size=5_000_000_000)),
    "Ceph": _page(_row("a%2Fb%20c.jpg"), _row("%0A.jpg"), _row("%0a%2f.jpg"), _row("%25%2F.jpg")),
    "no encoding": _page(_row("a%2Fb+c.jpg"), encoding=""),
    "other order": _page("<Contents><Size>1</Size><Key>a</Key><ETag>'b'</ETag></Contents>" * 2),
    "owner": _page(*[_row(key).replace("<Size>", "<Owner><ID>1</ID></Owner><Size>") for key in "abc"]),
    "some archived": _page(
        _row("a"), _row("b").replace("STANDARD", "GLACIER"), _row("c").replace("<Size>", "<R/><Size>")
    ),
    "lines": _page(_row("a"), _row("b")).replace("><", ">\n  <"),
    "plain ETag": _page(_row("a", "d41d-2"), _row("b", '"d41d"'), _row("c", "")),
    "prefixes before": _page("<CommonPrefixes><Prefix>a%2F</Prefix></CommonPrefixes>", _row("b"), _row("c")),
    "prefixes after": _page(_row("b"), after="<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>"),
    "no declaration": _page(_row("a")).removeprefix('<?xml version="1.0" encoding="UTF-8"?>\n'),
    "bad escapes": _page(_row("%"), _row("%2"), _row("%zz"), _row("%%2F2F"), _row("%FF%C3"), _row("%C3"), _row("%BC")),
    "another name space": _page(_row("a")).replace(' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', ""),
}
LEFT = {
    "empty": _page(),
    "prefixes between": _page(_row("a"), "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>", _row("b")),
    "entities": _page(_row("a&amp;b.jpg"), _row("c&#233;.jpg"), _row("&lt;&#x0A;&gt;"), encoding=""),
    "an entity in an ETag": _page(_row("a", "&amp;b")),
    "a carriage return": _page(_row("a\rb"), _row("a\r\nb"), encoding=""),
    "a control character": _page(_row("a\x01b"), encoding=""),
    "other letters": _page(_row("ü.jpg"), encoding=""),
    "CDATA": _page(_row("<![CDATA[a<b]]>"), encoding=""),
    "a comment": _page(_row("a<!-- b -->"), _row("c")),
    "an instruction": _page(_row("a<?b c?>"), _row("c")),
    "another encoding": _page(_row("a")).replace("UTF-8", "UTF-16"),
    "no ETag": _page(_row("a"), "<Contents><Key>b</Key><Size>1</Size></Contents>"),
    "an empty element": _page(_row("a"), _row("b").replace("<Key>b</Key>", "<Key/>")),
    "an attribute": _page(_row("a").replace("<Key>", '<Key x="1">')),
    "a prefix of names": _page(_row("a")).replace("</", "</s:").replace("<Contents>", "<s:Contents>"),
    "no number": _page(_row("a", size="many")),
    "twice a key": _page(_row("a").replace("<ETag>", "<Key>b</Key><ETag>")),
    "a wrong end": _page(_row("a").replace("</Key>", "</Kex>")),
    "an error": '<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>',
    "no XML": "<html>",
    "nothing": "",
}


@pytest.mark.parametrize("name", CUT)
def test_a_page_as_servers_write_it_is_taken_as_columns(name: str) -> None:
    _check(CUT[name], is_cut=True)


@pytest.mark.parametrize("name", LEFT)
def test_any_other_page_is_left_to_boto3(name: str) -> None:
    _check(LEFT[name], is_cut=False)


def test_a_page_that_ends_too_early_is_the_error_that_it_was() -> None:
    whole = _page(*(_row(f"{number}.jpg") for number in range(3))).encode()
    for end in range(90, len(whole), 41):
        assert _told(whole[:end], is_registered=True) is ClientError  # botocore calls it an internal error
        assert _told(whole[:end], is_registered=False) is ClientError


def test_random_keys_however_they_are_encoded() -> None:
    draw = random.Random(16)
    written = [quote, lambda key: quote(key, safe=""), quote_plus, lambda key: quote(key, safe="/ ~*")]
    for _ in range(40):
        keys = ["".join(draw.choices(AWKWARD, k=draw.randrange(1, 4))) for _ in range(draw.randrange(1, 30))]
        form = draw.choice(written)
        rows = [_row(form(key), f"&quot;{draw.getrandbits(128):032x}&quot;", draw.randrange(2**40)) for key in keys]
        body = _page(*rows).encode()
        assert s3_columns.cut(body) is not None
        assert _told(body, is_registered=True) == _told(body, is_registered=False)
        assert _told(body, is_registered=True)[0].keys == keys
        raw = _page(*map(_row, map(escape, keys)), encoding="").encode()  # a server that does not encode
        assert _told(raw, is_registered=True) == _told(raw, is_registered=False)


def test_botocore_itself_parses_a_page_without_its_rows() -> None:
    seen: list[bytes] = []
    note = lambda response_dict, **_: seen.append(response_dict["body"])  # noqa: E731
    client = _client(is_registered=True)
    client.meta.events.register_first("before-parse.s3.*", note)
    reply = _reply(CUT["AWS"].encode(), is_registered=True)
    client.meta.events.unregister("before-parse.s3.*", note)
    assert len(seen) == 1 and b"<Contents>" not in seen[0], "it looks for errors in all of it, twice the time"
    assert "Contents" not in reply and reply["KeyCount"] == 1
    assert columns(reply).keys == ["a/b.jpg", "c+ d.jpg"]


def test_every_awkward_key_as_boto3_lists_it(s3_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(26)
    listed = _filled(s3_endpoint, {*AWKWARD, *("".join(draw.choices(AWKWARD, k=2))[:900] for _ in range(20))})
    taken = _spied(monkeypatch)
    store = open_store(s3_endpoint.uri)
    for page_size in (1000, 7):
        monkeypatch.setattr(S3Store, "page_size", page_size)
        for top, start in (("", ""), ("in", ""), ("a", ""), ("", "a"), ("a/", ""), ("", "%"), ("in/", "a")):
            wanted = listed((f"{top}/" if top and not top.endswith("/") else top) + start)
            found = [e for page in store.pages(f"{s3_endpoint.uri}/{top}", start) for e in page.entries()]
            assert (found if page_size == 1000 else sorted(found)) == (wanted if page_size == 1000 else sorted(wanted))
    assert len(listed("")) > 60
    assert any(taken), "no page went the quick way"


def _filled(endpoint: S3Endpoint, keys: Iterable[str]) -> Callable[[str], list[Entry]]:
    """Puts objects, those that the server takes; what boto3 lists below a prefix, without the consoles' folders."""
    client = endpoint.client()

    def put(numbered: tuple[int, str]) -> None:
        number, key = numbered
        with suppress(ClientError, ParamValidationError):
            client.put_object(Bucket=endpoint.bucket, Key=key, Body=b"x" * (number % 3))

    def listed(prefix: str) -> list[Entry]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=endpoint.bucket, Prefix=prefix)
        found = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
        return [Entry(f"{endpoint.uri}/{item['Key']}", item["Size"], item["ETag"].strip('"')) for item in found]

    with ThreadPoolExecutor(8) as pool:
        [*pool.map(put, enumerate(keys))]
    return listed


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each page that is read from now on, whether it was taken as columns."""
    taken: list[bool] = []
    real = s3_columns.cut

    def cut(body: bytes) -> Any:
        found = real(body)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(s3_columns, "cut", cut)
    return taken


def test_a_listing_of_every_awkward_key_is_that_of_its_names(s3_endpoint: S3Endpoint) -> None:
    there = _filled(s3_endpoint, [f"in/{key}" for key in AWKWARD])("in/")
    paths = {entry: entry.uri.removeprefix(f"{s3_endpoint.uri}/in/") for entry in there}
    wanted = [
        entry for entry, path in paths.items() if not is_hidden(path) and is_image_name(path, is_empty=not entry.size)
    ]
    listing = list_input(f"{s3_endpoint.uri}/in/")
    assert [*zip(*listing.table.select(["uri", "version"]).to_pydict().values(), strict=True)] == sorted(
        (entry.uri, entry.version) for entry in wanted
    )
    assert listing.skipped == len(there) - len(wanted)
    assert listing.table["image_id"].to_pylist() == [ImageRef(e.uri, e.version).image_id for e in sorted(wanted)]


def test_a_plain_name_is_one_that_is_taken() -> None:
    draw = random.Random(6)
    parts = [
        *AWKWARD,
        *IMAGE_EXTENSIONS,
        "a",
        "b-1",
        "_",
        ".",
        "..",
        "/",
        "-",
        "system volume information",
        "JPG",
        "K",
        "\u017f",
    ]
    names = ["".join(draw.choices(parts, k=draw.randrange(1, 6))) for _ in range(5000)]
    names += [f"{draw.choice(parts)}{draw.choice(('/', '.', ''))}{draw.choice(parts)}.jpg" for _ in range(5000)]
    plain = [name for name in names if is_plain_image_name(name)]
    assert len(plain) > 200
    assert all(is_image_name(name) and is_image_name(name, is_empty=True) and not is_hidden(name) for name in plain)


def test_ids_of_many_are_those_of_each() -> None:
    names = [*AWKWARD, "s3://bucket/a.jpg", ""]
    versions = [f"{number}-ü" for number in range(len(names))]
    wanted = [ImageRef(name, version).image_id for name, version in zip(names, versions, strict=True)]
    assert image_ids(names, versions).tolist() == wanted
    assert image_ids([], []).tolist() == []


def test_a_disk_is_listed_in_pages_too(tmp_path: Path) -> None:
    for number in range(PAGE + 1):
        (tmp_path / f"{number}.jpg").touch()
    pages = [*open_store(str(tmp_path)).pages(str(tmp_path))]
    assert [len(page.uris) for page in pages] == [PAGE, 1]
    assert sorted(e for page in pages for e in page.entries()) == sorted(open_store(str(tmp_path)).list(str(tmp_path)))
    some = Page(["a", "b", "c"], [1, 2, 3], ["x", "y", "z"])
    assert some.chosen([1, None, True]) == Page(["a", "c"], [1, 3], ["x", "z"])
    assert some.chosen([1, 1, 1]) is some
