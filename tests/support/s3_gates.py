"""A server before moto that lets in only who asks as some public stores want it.

    with Gate("http://127.0.0.1:5000") as gate:
        ...  # gate.variables: the endpoint, and a proxy that makes names such as BUCKET.store.test reach it

What it wants is set by attribute: ``virtual_only`` (Alibaba OSS: 403 SecondLevelDomainForbidden to host/BUCKET/KEY),
``paid`` (buckets that answer 403 AccessDenied without ``x-amz-request-payer: requester``, or without keys), ``public``
(buckets that take requests without keys, and refuse these keys as AWS refuses those of a stranger). ``seen`` holds the
requests: method, host, path with query, and headers in lower case.
"""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from support.s3_servers import S3Endpoint, set_variables

HOST = "store.test"


class Seen(NamedTuple):
    """A request as it came."""

    method: str
    host: str
    target: str
    headers: dict[str, str]


class Gate:
    """The running server."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.virtual_only = False
        self.paid: set[str] = set()
        self.public: set[str] = set()
        self.seen: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.gate = self  # type: ignore[attr-defined]
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        self.variables = {"AWS_ENDPOINT_URL": f"http://{HOST}", "http_proxy": proxy, "no_proxy": "127.0.0.1,localhost"}
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refusal(self, bucket: str, headers: dict[str, str], *, is_virtual: bool) -> str | None:
        """The code with which a request is refused."""
        is_signed = "authorization" in headers
        if self.virtual_only and not is_virtual:
            return "SecondLevelDomainForbidden"
        if bucket in self.paid and not (is_signed and headers.get("x-amz-request-payer") == "requester"):
            return "AccessDenied"
        if is_signed is (bucket in self.public):
            return "AccessDenied"
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        gate: Gate = self.server.gate  # type: ignore[attr-defined]
        asked = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        host = asked.netloc or headers["host"]
        target = asked.path + (f"?{asked.query}" if asked.query else "")
        gate.seen.append(Seen(self.command, host, target, headers))
        is_virtual = host.endswith(f".{HOST}")
        path = f"/{host.removesuffix(f'.{HOST}')}{target}" if is_virtual else target
        bucket = path[1:].partition("/")[0].partition("?")[0]
        code = gate.refusal(bucket, headers, is_virtual=is_virtual)
        if code is not None:
            self._send(403, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())
            return
        inner = http.client.HTTPConnection(gate.upstream, timeout=30)
        # moto takes any keys, and none only where a policy says so
        signed = {"authorization": "AWS4-HMAC-SHA256 Credential=gate/20260101/us-east-1/s3/aws4_request"}
        inner.request(self.command, path, body, signed | {k: v for k, v in headers.items() if k != "host"})
        reply = inner.getresponse()
        kept = {k: v for k, v in reply.getheaders() if k.lower() not in ("connection", "transfer-encoding", "server")}
        self._send(reply.status, kept, reply.read())
        inner.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # the names that http.server looks for

    def _send(self, status: int, headers: dict[str, Any], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        elif not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def images() -> dict[str, bytes]:
    """Two scenes by key."""
    from PIL import Image

    from m2f_batch.demo.scenes import draw_scene

    found = {}
    for seed in (1, 2):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(seed).image).save(buffer, "PNG")
        found[f"in/{seed}.png"] = buffer.getvalue()
    return found


def coco() -> bytes:
    """A box drawn on each of ``images``."""
    from m2f_batch.demo.scenes import draw_scene

    shapes = {seed: draw_scene(seed).image.shape for seed in (1, 2)}
    sizes = [
        {"id": seed, "file_name": f"{seed}.png", "height": height, "width": width}
        for seed, (height, width, _) in shapes.items()
    ]
    drawn = [
        {"id": seed, "image_id": seed, "category_id": 1, "iscrowd": 0, "segmentation": [[9, 9, 60, 9, 60, 50, 9, 50]]}
        for seed in (1, 2)
    ]
    tree = {"images": sizes, "annotations": drawn, "categories": [{"id": 1, "name": "box"}]}
    return json.dumps(tree).encode()


@pytest.fixture
def gate(moto_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before moto, whose bucket holds the images, their annotations and a manifest."""
    from support.stores import reset_stores

    drawn = images()
    drawn["other//dbl.png"] = drawn["in/1.png"]
    lines = "".join(f"../{key}\n" for key in drawn)
    moto_s3.put({**drawn, "coco.json": coco(), "lists/all.txt": lines.encode()})
    with Gate(moto_s3.variables["AWS_ENDPOINT_URL"]) as gate:
        for name in ("NO_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        set_variables(moto_s3.variables | gate.variables, monkeypatch)
        yield gate
    reset_stores()
