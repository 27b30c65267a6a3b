"""Only hosts that a list names are asked, at the addresses that a list names."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import certificate
from support.web_images import PNG, reason, soon, version_of
from support.web_server import Site, serving

from m2f_batch.errors import UsageError
from m2f_batch.inputs.fetch import fetch
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow
from m2f_batch.storage.places import open_store
from m2f_batch.storage.web import hosts as web_hosts


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def named(site: Site, tmp_path: Path) -> Iterator[Site]:
    """The site, whose address a job's allow-list names."""
    with allow.confine([f"{site.url}/", str(tmp_path)], {}):
        yield site


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
