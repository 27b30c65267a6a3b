"""Images behind URLs: versions, faults, redirects, addresses; against a server on the loopback that a list names."""

import contextlib
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import certificate
from support.web_server import Site, serving

from m2f_batch.errors import ImageError, TransientError, UsageError
from m2f_batch.inputs.fetch import fetch
from m2f_batch.inputs.listing import list_input
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow, retries
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import NotFound, StoreUnavailable
from m2f_batch.storage.web import hosts as web_hosts
from m2f_batch.storage.web import store as web

PNG = b"\x89PNG\r\n\x1a\n and so on"
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


def soon(budget: float = 10) -> Retries:
    return Retries(budget=budget, sleep=lambda seconds: None)


def version_of(url: str) -> str:
    entry = open_store(url).stat(url)
    assert entry is not None
    return entry.version


def reason(url: str, version: str = "") -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        fetch(ImageRef(url, version), soon())
    assert caught.value.stage == "fetch"
    return caught.value.reason, caught.value.message


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


# ---- who may be asked


def test_nothing_is_asked_of_a_host_that_no_list_names(site: Site, tmp_path: Path) -> None:
    url = site.put("/a.png", PNG)
    told = f"{url}: the web is read only where storage.allow (or M2F_BATCH_ALLOW) names the host; add {site.url}/ to it"
    with pytest.raises(allow.NotAllowed, match=f"^{told.replace('(', '[(]').replace(')', '[)]')}"):
        open_store(url).read(url)
    assert open_store(url).stat_many([url]) == [None]
    assert reason(url) == ("NotAllowed", f"{url}: lies outside the allow-list")
    with allow.confine([str(tmp_path)], {}):
        assert reason(url) == ("NotAllowed", f"{url}: lies outside the allow-list")
        with pytest.raises(allow.NotAllowed, match=f"^{url}: lies outside storage.allow; allowed: {tmp_path}$"):
            open_store(url).read(url)
    assert site.asked == []


def test_a_host_is_named_with_scheme_port_and_prefix(site: Site) -> None:
    site.put("/in/a.png", PNG)
    port = site.port
    inside = [f"http://127.0.0.1:{port}/in/a.png", f"HTTP://127.0.0.1:{port}/in/a.png?x=../y"]
    outside = [
        f"http://127.0.0.1:{port}/in2/a.png", f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/in/a.png",
        "http://127.0.0.1/in/a.png", f"http://localhost:{port}/in/a.png", f"http://127.0.0.1:{port}/in/../secret",
        f"http://127.0.0.1:{port}/in/%2e%2e/secret", f"http://127.0.0.1:{port}/in/..%2Fsecret",
        f"http://127.0.0.1:{port}/in/%252e%252e/secret", f"http://127.0.0.1:{port}/in/..%5csecret",
        f"http://127.0.0.1:{port}/in/..;/secret", f"http://127.0.0.1:{port}/in/%2e%2e%3bx=1/secret",
        f"http://127.0.0.1:{port}\\@evil.example/in/a.png",
    ]  # fmt: skip
    with allow.confine([f"http://127.0.0.1:{port}/in/"], {}):
        assert [allow.is_allowed(url) for url in inside] == [True, True]
        for url in outside:
            with contextlib.suppress(UsageError):
                assert not allow.is_allowed(url), url
    with allow.confine(["https://Host.example:443/"], {}):
        assert allow.is_allowed("https://host.EXAMPLE/a.png")
        assert not allow.is_allowed("https://host.example.evil.example/a.png")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("https://", "wanted https://HOST/PATH"),
        ("https://me:secret@host/", "keys and passwords come from the environment, never from the URI"),
        ("https://host/?x=1", "has a query"),
        ("https://host/*", "is no place"),
        ("ftp://host/", "no scheme of files"),
    ],
)
def test_entries_that_name_no_host(entry: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^storage.allow: .*{words}"), allow.confine([entry], {}):
        pass


def test_redirects_lead_only_to_what_a_list_names(named: Site) -> None:
    with serving() as other:
        secret = other.put("/secret.png", PNG)
        url = named.put("/a.png", PNG)
        for target in ("/a.png", url, "a.png"):
            near = named.put("/near", b"", status=302, headers={"Location": target})
            assert fetch(ImageRef(near, version_of(near)), soon()) == PNG
        for target in (secret, secret.removeprefix("http:"), "file:///etc/passwd", "ftp://x/", "http://u:p@127.0.0.1/"):
            far = named.put("/far", b"", status=307, headers={"Location": target})
            kind, message = reason(far)
            assert (kind, message.partition(", to ")[0]) == ("NotAllowed", f"{far}: leads outside the allow-list")
            assert open_store(far).stat_many([far]) == [None]
        assert other.asked == []
        loop = named.put("/loop", b"", status=301, headers={"Location": "/loop"})
        assert reason(loop) == ("Unreadable", f"{loop}: more than 5 redirects")


def test_a_redirect_that_leads_to_no_url_is_a_row(named: Site) -> None:
    for target in ("http://[::1/a.png", "http://[zz]/a.png"):
        odd = named.put("/odd", b"", status=302, headers={"Location": target})
        assert reason(odd) == ("Unreadable", f"{odd}: leads to what is no URL")
        assert open_store(odd).stat_many([odd]) == [None]
    odd = named.put("/odd", b"", status=302, headers={"Location": "http://a\x1bb/"})
    assert reason(odd) == ("NotAllowed", f"{odd}: leads outside the allow-list, to http://a\\x1bb")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: int, **options: int) -> list:
        if host[0].isdigit():
            return real(host, port, *rest, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "224.0.0.1"],
)  # fmt: skip
def test_a_name_leads_into_no_network(monkeypatch: pytest.MonkeyPatch, site: Site, address: str) -> None:
    resolving(monkeypatch, address)
    site.put("/a.png", PNG)
    url = f"http://cdn.example:{site.port}/a.png"
    with allow.confine([f"http://cdn.example:{site.port}/"], {}):
        kind, message = reason(url)
    assert (kind, message) == (
        "NotAllowed",
        f"{url}: cdn.example leads to no public address; others are asked only where the allow-list names them: "
        "http://ADDRESS/",
    )
    assert site.asked == []


def test_a_name_leads_into_a_network_that_is_named_too(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    asked = resolving(monkeypatch, "10.9.9.9", "127.0.0.1")
    site.put("/a.png", PNG)
    url = f"http://nas.example:{site.port}/a.png"
    with allow.confine([f"http://nas.example:{site.port}/", "http://127.0.0.1/"], {}):
        assert open_store(url).read(url) == PNG
    assert site.hosts == {f"nas.example:{site.port}": 1}, "the host is asked for by its name, at the address looked at"
    assert asked == ["nas.example"], "resolved once: what was looked at is what is connected to"


def test_every_list_must_name_an_address(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    url = site.put("/a.png", PNG)
    monkeypatch.setenv("M2F_BATCH_ALLOW", "https://elsewhere.example/")
    with allow.confine([f"{site.url}/"], {}):
        assert reason(url)[0] == "NotAllowed"
    monkeypatch.setenv("M2F_BATCH_ALLOW", f"{site.url}/")
    assert open_store(url).read(url) == PNG
    local = f"http://localhost:{site.port}/a.png"
    monkeypatch.setenv("M2F_BATCH_ALLOW", f"http://localhost:{site.port}/")
    assert open_store(local).read(local) == PNG


def test_a_certificate_is_that_of_the_host_not_of_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path)  # of 127.0.0.1
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    with serving(tls) as site:
        url, named = site.put("/a.png", PNG), f"https://photos.example:{site.port}/a.png"
        with allow.confine([f"{site.url}/", f"https://photos.example:{site.port}/"], {}):
            untrusted = f"{url}: the certificate of the server is not trusted"
            assert reason(url) == ("Unreadable", untrusted)
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            web_hosts._pool.cache_clear()
            assert fetch(ImageRef(url, version_of(url)), soon()) == PNG
            resolving(monkeypatch, "127.0.0.1")
            assert reason(named) == ("Unreadable", untrusted.replace(url, named))
    assert [path for _, path in site.asked] == ["/a.png"] * 2


def test_an_address_of_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serving(address="::1") as site:
        url = site.put("/in/a.png", PNG)
        with allow.confine([f"{site.url}/in/"], {}):
            assert fetch(ImageRef(url, version_of(url)), soon()) == PNG
            assert not allow.is_allowed(f"{site.url}/a.png")


def test_proxies_of_the_environment_are_not_asked(named: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    url = named.put("/a.png", PNG)
    assert open_store(url).read(url) == PNG


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
