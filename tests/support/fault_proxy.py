"""A proxy that injects faults between an S3 client and a server: by chance, by seed and rate, and by fixed rules.

    with FaultProxy("http://127.0.0.1:7480", seed=1, rate=0.1) as proxy:
        ...  # AWS_ENDPOINT_URL=proxy.url
        proxy.counts()  # {"slow-down": 3, ...}

    python tests/support/fault_proxy.py --upstream http://127.0.0.1:7480 --port 9000 --seed 1 --rate 0.1 --kinds \
        reset,lost
    curl http://127.0.0.1:9000/__faults__                       the settings, requests seen, faults injected by kind
    curl -X PUT -d '{"rate": 0}' http://127.0.0.1:9000/__faults__   changes settings while it runs

The program prints {"endpoint": URL} as its first line, and its counts as the last one when it is interrupted. A rule is
{"pattern": "*/a.jpg", "status": 403, "code": "AccessDenied"} or {"pattern": "*", "kind": "stall"}, and may have
"methods": ["GET"], "query": "uploadId=" (a part of the query), "times": 2 (matches until it is spent); patterns are
fnmatch's, of the path /bucket/key, unquoted.

The host header is passed on as it came, so that signatures hold. Which requests of one path fail depends on the seed,
the method, the path and how often it was asked for, not on the order in which threads send them.
"""

import argparse
import contextlib
import fnmatch
import http.client
import json
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

KINDS = {
    "slow-down": "answers 503 SlowDown; the server never sees the request",
    "internal-error": "answers 500 InternalError; the server never sees the request",
    "reset": "resets the connection; the server never sees the request",
    "late": "holds the request for `stall` seconds, then passes it on, even if nobody waits for it any more",
    "lost": "passes the request on, and resets the connection instead of answering",
    "stall": "stops for `stall` seconds in the middle of the answer's body, or before an answer without one",
    "reset-body": "resets the connection in the middle of the answer's body",
    "truncated": "closes the connection in the middle of the answer's body",
    "short": "passes half of an object on as if it were all of it",
}
CONTROL = "/__faults__"
_BLOCK = 1 << 16
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
_ERRORS = {"slow-down": (503, "SlowDown"), "internal-error": (500, "InternalError")}


class FaultProxy:
    """A running proxy; ``set`` changes any of the settings at any time, from any thread."""

    def __init__(
        self,
        upstream: str,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        seed: int = 0,
        rate: float = 0.0,
        kinds: list[str] | None = None,
        rules: list[dict[str, Any]] | None = None,
        stall: float = 2.0,
    ) -> None:
        place = urlsplit(upstream)
        self.upstream = (place.hostname or "127.0.0.1", place.port or 80)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._asked: Counter[tuple[str, str]] = Counter()
        self.settings: dict[str, Any] = {"rules": [], "kinds": [*KINDS]}
        self.set(seed=seed, rate=rate, kinds=kinds or [*KINDS], rules=rules or [], stall=stall)
        self._server = _Server((host, port), _Handler)
        self._server.proxy = self
        self.url = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening; connections that are open end with their clients."""
        self._server.shutdown()
        self._server.server_close()

    def set(self, **settings: Any) -> None:
        """Changes ``seed``, ``rate``, ``kinds``, ``rules``, ``stall``. Raises ValueError for what is not allowed."""
        if unknown := settings.keys() - {"seed", "rate", "kinds", "rules", "stall"}:
            raise ValueError(f"unknown settings: {sorted(unknown)}")
        kinds = [*settings.get("kinds", []), *(rule["kind"] for rule in settings.get("rules", []) if "kind" in rule)]
        if wrong := set(kinds) - KINDS.keys():
            raise ValueError(f"unknown kinds: {sorted(wrong)}; allowed: {[*KINDS]}")
        with self._lock:
            self.settings = {**self.settings, **settings}
            self.settings["rules"] = [dict(rule) for rule in self.settings["rules"]]  # ours: "times" counts down

    def counts(self) -> dict[str, int]:
        """Faults injected so far by kind; a rule with a status counts as "<status> <code>"."""
        with self._lock:
            return dict(self._counts)

    def requests(self) -> int:
        """Requests that have come in."""
        with self._lock:
            return self._asked.total()

    def choose(self, method: str, path: str, query: str) -> tuple[str, int, str] | None:
        """The fault for a request: its kind, or a status and a code; None for none. Counts the request."""
        with self._lock:
            self._asked[method, path] += 1
            for rule in self.settings["rules"]:
                if _matches(rule, method, path, query):
                    rule["times"] = rule.get("times", 1 << 62) - 1
                    return rule.get("kind", ""), rule.get("status", 0), rule.get("code", "")
            draw = random.Random(f"{self.settings['seed']} {method} {path} {self._asked[method, path]}")
            if draw.random() >= self.settings["rate"]:
                return None
            return draw.choice(self.settings["kinds"]), 0, ""

    def count(self, kind: str) -> None:
        """Counts an injected fault."""
        with self._lock:
            self._counts[kind] += 1


def _matches(rule: dict[str, Any], method: str, path: str, query: str) -> bool:
    if rule.get("times", 1) <= 0 or method not in rule.get("methods", [method]):
        return False
    return fnmatch.fnmatchcase(path, rule["pattern"]) and rule.get("query", "") in query


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultProxy

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the polite end first, which would go before a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that have gone


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive, and an answer to "Expect: 100-continue"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        proxy, place = self.server.proxy, urlsplit(self.path)
        if place.path == CONTROL:
            return self._control()
        kind, status, code = proxy.choose(self.command, unquote(place.path), place.query) or ("", 0, "")
        status, code = _ERRORS.get(kind, (status, code))
        if status:
            proxy.count(kind or f"{status} {code}")
            return self._refuse(status, code)
        if kind == "reset":
            proxy.count(kind)
            return self._reset()
        if kind == "late":
            proxy.count(kind)
            body = b"".join(self._body())
            time.sleep(proxy.settings["stall"])
            return self._pass_on(iter([body] if body else []), "")
        return self._pass_on(self._body(), kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _control(self) -> None:
        body, status = b"".join(self._body()), 200
        proxy = self.server.proxy
        try:
            if self.command == "PUT":
                proxy.set(**json.loads(body))
        except (ValueError, TypeError, KeyError) as error:
            status = 400
            answer: dict[str, Any] = {"error": str(error)}
        else:
            answer = {"settings": proxy.settings, "requests": proxy.requests(), "counts": proxy.counts()}
        self._answer(status, json.dumps(answer).encode() + b"\n", "application/json")

    def _refuse(self, status: int, code: str) -> None:
        for _ in self._body():
            pass
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><RequestId>fault</RequestId></Error>".encode()
        self._answer(status, b"" if self.command == "HEAD" else body, "application/xml")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> Iterator[bytes]:
        """The request's body, in blocks."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from _blocks(self.rfile, int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: Iterator[bytes], kind: str) -> None:
        proxy = self.server.proxy
        with contextlib.closing(http.client.HTTPConnection(*proxy.upstream, timeout=60)) as server:
            try:
                self._send(server, body)
                answer = server.getresponse()
            except (OSError, http.client.HTTPException):  # the server itself is away: so are we
                return self._reset()
            has_body = self.command != "HEAD" and answer.status not in (204, 304) and answer.length != 0
            if kind == "lost" or (kind in ("reset-body", "truncated", "short") and not has_body):
                answer.read()
                proxy.count("lost")
                return self._reset()
            if kind:
                proxy.count(kind)
            self._relay(answer, kind, has_body=has_body)

    def _send(self, server: http.client.HTTPConnection, body: Iterator[bytes]) -> None:
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP | {"expect"}:
                server.putheader(name, value)
        is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        if is_chunked:
            server.putheader("Transfer-Encoding", "chunked")
        server.endheaders()
        for block in body:
            server.send(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
        if is_chunked:
            server.send(b"0\r\n\r\n")

    def _relay(self, answer: http.client.HTTPResponse, kind: str, *, has_body: bool) -> None:
        if not has_body and kind == "stall":
            time.sleep(self.server.proxy.settings["stall"])
        data = answer.read() if has_body and kind else b""  # which half there is of it must be known
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        is_chunked = has_body and not kind and answer.length is None
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.status not in (204, 304):
            half = len(data) // 2 if kind == "short" else len(data)
            length = half if data else answer.getheader("Content-Length", "0")
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if has_body and kind:
            self._break_off(data, kind)
        elif has_body:
            for block in _blocks(answer, None):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
            if is_chunked:
                self.wfile.write(b"0\r\n\r\n")

    def _break_off(self, data: bytes, kind: str) -> None:
        half = len(data) // 2
        self.wfile.write(data[:half])
        if kind == "reset-body":
            return self._reset()
        if kind == "truncated":
            self.close_connection = True
        elif kind == "stall":
            time.sleep(self.server.proxy.settings["stall"])
            self.wfile.write(data[half:])

    def _reset(self) -> None:
        """Ends the connection by RST: what is under way is dropped too."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing: the counts do."""


def _blocks(source: Any, length: int | None) -> Iterator[bytes]:
    left = length
    while left is None or left > 0:
        block = source.read(_BLOCK if left is None else min(_BLOCK, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def main() -> None:
    """Runs a proxy until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A proxy that injects faults between an S3 client and a server.")
    parser.add_argument("--upstream", required=True, help="http://host:port of the S3 server")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="share of requests with a fault")
    parser.add_argument("--kinds", default=",".join(KINDS), help="; ".join(f"{k}: {what}" for k, what in KINDS.items()))
    parser.add_argument("--rules", type=json.loads, default=[], help="a JSON list")
    parser.add_argument("--stall", type=float, default=2.0, help="seconds of stall and late")
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("seed", "rate", "rules", "stall")}
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with FaultProxy(given.upstream, given.port, kinds=given.kinds.split(","), **options) as proxy:
        print(json.dumps({"endpoint": proxy.url}), flush=True)
        ended.wait()
        print(json.dumps({"requests": proxy.requests(), "counts": proxy.counts()}), flush=True)


if __name__ == "__main__":
    main()
