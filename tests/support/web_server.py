"""A web server on the loopback for tests, with faults, and a record of what was asked of it."""

import gzip
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What is behind a path. ``faults`` are served first, one to a request: a status, or "reset" or "cut"."""

    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    faults: deque[int | str] = field(default_factory=deque)
    refused: tuple[str, ...] = ()  # methods that get 405
    only_get: dict[str, str] = field(default_factory=dict)  # headers that HEAD lacks
    has_ranges: bool = True
    has_length: bool = True
    is_packed: bool = False


class Site:
    """Pages by path, with the query; ``url`` is the server's, ``asked`` what came."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []
        self.hosts: Counter[str] = Counter()
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        self.url = self.port = None  # type: ignore[assignment]

    def put(self, path: str, data: bytes, /, **options) -> str:
        """A page; returns its URL. By default it has an ETag."""
        options.setdefault("headers", {"ETag": f'"{hash(data) & 0xFFFFFF:x}"'})
        self.pages[path] = Page(data, **options)
        return self.url + path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site = self.site
        with site.lock:
            site.asked.append((self.command, self.path))
            site.hosts[self.headers["Host"]] += 1
            site.together += 1
            site.most_together = max(site.most_together, site.together)
        try:
            self._answer(site.pages.get(self.path) or Page(b"none", {}, 404))
        finally:
            with site.lock:
                site.together -= 1

    do_HEAD = do_GET

    def _answer(self, page: Page) -> None:
        fault = page.faults.popleft() if page.faults else None
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        status, data = (fault, b"a fault") if isinstance(fault, int) else (page.status, page.data)
        if self.command in page.refused:
            status, data = 405, b""
        headers = dict(page.headers) | (page.only_get if self.command == "GET" else {})
        if self.headers.get("Range") == "bytes=0-0" and page.has_ranges and status == 200:
            status = 206 if data else 416
            headers["Content-Range"] = f"bytes 0-0/{len(data)}" if data else "bytes */0"
            data = data[:1]
        if page.is_packed:
            headers["Content-Encoding"], data = "gzip", gzip.compress(data)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if page.has_length:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
            if fault == "cut":
                self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving(tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[Site]:
    """A site at an address of the loopback, on a port that was free."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = type("Server", (ThreadingHTTPServer,), {"address_family": family})((address, 0), handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    host = f"[{address}]" if ":" in address else address
    site.url = f"{'http' if tls is None else 'https'}://{host}:{site.port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
