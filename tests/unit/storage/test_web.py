"""Images behind URLs: versions, faults, redirects, addresses; against a server on the loopback that a list names."""

import contextlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.web_images import PNG, reason, soon, version_of
from support.web_server import Site, serving

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.inputs.fetch import fetch
from m2f_batch.inputs.listing import list_input
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow, retries
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import NotFound, StoreUnavailable
from m2f_batch.storage.web import hosts as web_hosts
from m2f_batch.storage.web import store as web

DATE = "Sun, 29 Nov 2026 10:00:00 GMT"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def named(site: Site, tmp_path: Path) -> Iterator[Site]:
    """The site, whose address a job's allow-list names."""
    with allow.confine([f"{site.url}/", str(tmp_path)], {}):
        yield site


# ---- versions
@pytest.mark.parametrize(
    ("options", "version", "requests"),
    [
        ({"headers": {"ETag": '"abc"', "Last-Modified": DATE}}, "abc", ["HEAD"]),
        ({"headers": {"ETag": 'W/"abc"'}}, "abc", ["HEAD"]),
        ({"headers": {"Last-Modified": DATE}}, DATE, ["HEAD"]),
        ({"headers": {"ETag": '"abc"'}, "refused": ("HEAD",)}, "abc", ["HEAD", "GET"]),
        ({"headers": {}, "only_get": {"ETag": '"abc"'}}, "abc", ["HEAD", "GET"]),
        ({"headers": {}}, f"length {len(PNG)}", ["HEAD", "GET"]),
        ({"headers": {}, "has_ranges": False}, f"length {len(PNG)}", ["HEAD", "GET"]),
        ({"headers": {}, "has_ranges": False, "has_length": False}, f"length {len(PNG)}", ["HEAD", "GET"]),
        ({"headers": {}, "is_packed": True, "has_ranges": False}, f"length {len(PNG)}", ["HEAD", "GET"]),
    ],
)
def test_the_version_of_a_file(named: Site, options: dict, version: str, requests: list[str]) -> None:
    url = named.put("/a.png", PNG, **options)
    assert version_of(url) == version
    assert [method for method, _ in named.asked] == requests
    assert fetch(ImageRef(url, version), soon()) == PNG


def test_a_file_is_not_held_to_learn_its_length(named: Site) -> None:
    data = bytes(30_000_000)
    url = named.put("/a.png", data, headers={}, has_ranges=False, has_length=False)
    tracemalloc.start()
    try:
        assert version_of(url) == "length 30000000"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_an_empty_file_without_version(named: Site) -> None:
    url = named.put("/empty", b"", headers={})
    assert version_of(url) == "length 0"
    assert fetch(ImageRef(url, "length 0"), soon()) == b""


def test_a_get_that_says_more_than_a_head_is_no_change(named: Site) -> None:
    url = named.put("/a.png", PNG, headers={"Last-Modified": DATE}, only_get={"ETag": '"abc"'})
    assert version_of(url) == DATE
    assert fetch(ImageRef(url, DATE), soon()) == PNG
    named.put("/a.png", PNG, headers={"Last-Modified": "later"}, only_get={"ETag": '"abc"'})
    assert reason(url, DATE) == ("Changed", f"{url}: has changed since it was listed")


def test_a_listing_says_once_what_it_cannot_see(named: Site, tmp_path: Path) -> None:
    odd = "/c d.png?x=(1)&y=%20"  # as it is asked for: with %20 in both places
    urls = [named.put("/a.png", PNG), named.put("/b.png", PNG, headers={}), named.put(odd, PNG, headers={})]
    named.pages["/c%20d.png?x=(1)&y=%20"] = named.pages[odd]
    (tmp_path / "m.txt").write_text("\n".join([*urls, f"{named.url}/gone.png"]))
    listing = list_input(str(tmp_path / "m.txt"))
    assert listing.table["uri"].to_pylist() == [*urls, f"{named.url}/gone.png"], "as they are written"
    assert [*map(bool, listing.table["version"].to_pylist())] == [True, True, True, False]
    assert listing.notes == (
        "images of the web without ETag and Last-Modified: 2; their length stands for their version, and a change that "
        "keeps it is not seen",
    )


# ---- faults
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (404, ("NotFound", "no such file (HTTP 404)")),
        (410, ("NotFound", "no such file (HTTP 410)")),
        (401, ("AccessDenied", "access denied (HTTP 401)")),
        (403, ("AccessDenied", "access denied (HTTP 403)")),
        (451, ("AccessDenied", "access denied (HTTP 451)")),
        (400, ("Unreadable", "HTTP 400")),
        (501, ("Unreadable", "HTTP 501")),
    ],
)
def test_what_stays_wrong_is_a_row(named: Site, status: int, told: tuple[str, str]) -> None:
    url = named.put("/a.png", b"an error page", status=status)
    assert open_store(url).stat_many([url]) == [None]
    assert reason(url) == (told[0], f"{url}: {told[1]}")


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "reset", "cut"])
def test_what_passes_is_tried_again(named: Site, fault: int | str) -> None:
    url = named.put("/a.png", PNG)
    version = version_of(url)
    named.pages["/a.png"].faults.extend([fault, fault])
    before = retries.retried()
    assert fetch(ImageRef(url, version), soon()) == PNG
    assert retries.retried() - before == 2


def test_what_does_not_pass_is_no_row(named: Site) -> None:
    url = named.put("/a.png", PNG, status=503)
    with pytest.raises(TransientError, match=rf"^{url}: HTTP 503 \(\d+ tries in 0.2 s\)$"):
        fetch(ImageRef(url, "v"), Retries(budget=0.2, first_wait=0.05))


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with allow.confine([f"{url}/"], {}), pytest.raises(TransientError, match=f"^{url}/a.png: NewConnectionError"):
        open_store(url).read(f"{url}/a.png")


def test_a_name_that_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    url = "https://gone.example/a.png"
    with allow.confine(["https://gone.example/"], {}), pytest.raises(TransientError, match=f"^{url}: the name of"):
        open_store(url).read(url)


def test_bounds_on_size_and_time(named: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    url = named.put("/a.png", PNG * 100)
    unknown = named.put("/b.png", PNG * 100, has_length=False)
    packed = named.put("/c.png", b"\0" * 100_000, is_packed=True)
    monkeypatch.setattr(web, "MAX_BYTES", 1000)
    for each in (url, unknown, packed):
        assert reason(each) == ("Unreadable", f"{each}: more than 1,000 bytes")
    monkeypatch.setattr(web, "MAX_BYTES", 10_000)
    monkeypatch.setattr(web, "MAX_SECONDS", -1.0)
    with pytest.raises(TransientError, match=r"a.png: not there after -1 s"):
        open_store(url).read(url)


def test_a_part_that_nobody_asked_for_is_no_file(named: Site) -> None:
    url = named.put("/a.png", PNG, status=206, headers={"Content-Range": f"bytes 0-9/{2 * len(PNG)}", "ETag": '"a"'})
    with pytest.raises(TransientError, match=f"a.png: {len(PNG)} of {2 * len(PNG)} bytes came"):
        open_store(url).read(url)
    none = named.put("/none.png", b"an error page", status=416)
    assert reason(none) == ("Unreadable", f"{none}: HTTP 416")


def test_the_rest_of_a_reply_that_is_not_wanted_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_hosts, "READ_SECONDS", 0.5)
    web_hosts._pool.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"

        def answer() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 None\r\nContent-Length: 9000\r\n\r\n")
                for _ in range(9000):  # never silent for as long as a time-out
                    time.sleep(0.1)
                    connection.sendall(b"x")
                sent_all.set()

        sent_all = threading.Event()
        thread = threading.Thread(target=answer)
        thread.start()
        with allow.confine([url], {}), pytest.raises(NotFound):
            open_store(url).read(url)
        thread.join(timeout=120)
        assert not thread.is_alive() and not sent_all.is_set(), "the connection was closed before its end"
    web_hosts._pool.cache_clear()


def test_requests_of_a_process_are_bounded_and_share_connections(named: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [named.put(f"/{number}.png", PNG) for number in range(200)]
    found = open_store(urls[0]).stat_many([*urls, f"{named.url}/none.png"])
    assert [entry is not None for entry in found] == [True] * 200 + [False]
    assert 1 <= named.most_together <= web_hosts.PER_ADDRESS
    (pool,) = web_hosts.pools_of(urls[0])
    assert pool.num_connections <= web_hosts.PER_ADDRESS < pool.num_requests


def test_the_web_is_not_written_nor_listed(named: Site) -> None:
    store = open_store(named.url)
    for act in (
        lambda: store.write(f"{named.url}/a", b"x"),
        lambda: store.write_new(f"{named.url}/a", b"x"),
        lambda: store.replace(f"{named.url}/a", b"x", "v"),
        lambda: store.delete([f"{named.url}/a"]),
    ):
        with pytest.raises(StoreUnavailable, match="nothing can be written to the web"):
            act()
    with pytest.raises(StoreUnavailable, match="the web cannot be listed; name the images in a manifest"):
        [*store.list(named.url)]
    assert named.asked == []


def test_what_is_wrong_with_a_url_is_said_without_its_query(named: Site, tmp_path: Path) -> None:
    for line, words in (
        ("https://me:SECRET@host/a.png", "'https://host/a.png': https://...: keys and passwords come from"),
        (f"{named.url}/a.png?X-Amz-Signature={'0' * 64}", r"a.png\?...': a URI holds a signature or a key"),
        ("https:///a.png", "wanted https://HOST/PATH"),
    ):
        (tmp_path / "m.txt").write_text(f"b.png\n{line}")
        with pytest.raises(UsageError, match=f"^input.uri: '{tmp_path}/m.txt': row 2: .*{words}") as caught:
            list_input(str(tmp_path / "m.txt"))
        assert "SECRET" not in str(caught.value) and "0000" not in str(caught.value)
