"""A stand-in for a cluster's Jobs API: the answers of Ray 2.60's, and what goes wrong on the way to them."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Cluster:
    """What the stand-in says and has been asked. ``script``: each connection's log as texts, "cut", or "wait" (1 s)."""

    token: str | None = "secret-token"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: str = ""
    script: list[list[str]] = field(default_factory=list)
    after: dict[str, Any] = field(default_factory=lambda: {"status": "SUCCEEDED", "driver_exit_code": 0})
    failures: list[int] = field(default_factory=list)  # statuses of the next requests for a job
    proxy: dict[str, list[int]] = field(default_factory=dict)  # what one before it answers next, by beginning of path
    proxy_says: str = "<html>of a proxy</html>"
    no_websockets: list[int] = field(default_factory=list)  # what one before it answers to them
    at_once: dict[str, Any] = field(default_factory=lambda: {"status": "PENDING"})  # what a job is that was submitted
    lose_answer: bool = False  # of the next submission, which is taken
    packages: dict[str, bytes] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    tokens_seen: set[str] = field(default_factory=set)
    without_token: list[str] = field(default_factory=list)  # paths
    url: str = ""


@contextmanager
def serving(cluster: Cluster, tls: ssl.SSLContext | None = None) -> Iterator[Cluster]:
    """The stand-in on a port of its own; over HTTPS with a certificate."""
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(_app(cluster), shutdown_timeout=0.1)  # of connections that a killed follower left
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        cluster.url = f"http{'s' if tls else ''}://{host}:{port}"
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield cluster
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _app(cluster: Cluster) -> web.Application:
    app = web.Application(middlewares=[_authenticated(cluster)], client_max_size=2**26)
    handlers = _handlers(cluster)
    app.add_routes(
        [
            web.get("/api/authentication_mode", handlers["mode"]),
            web.get("/api/version", handlers["version"]),
            web.get("/api/packages/gcs/{name}", handlers["package"]),
            web.put("/api/packages/gcs/{name}", handlers["put_package"]),
            web.post("/api/jobs/", handlers["submit"]),
            web.get("/api/jobs/{id}", handlers["job"]),
            web.post("/api/jobs/{id}/stop", handlers["stop"]),
            web.get("/api/jobs/{id}/logs", handlers["log"]),
            web.get("/api/jobs/{id}/logs/tail", handlers["tail"]),
        ]
    )
    return app


def _authenticated(cluster: Cluster) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Any) -> web.StreamResponse:
        for path, statuses in cluster.proxy.items():
            if request.path.startswith(path) and statuses:
                return web.Response(status=statuses.pop(0), text=cluster.proxy_says)
        given = request.headers.get("Authorization", "")
        if given:
            cluster.tokens_seen.add(given)
        if cluster.token is None or request.path == "/api/authentication_mode":
            return await handler(request)
        if not given:
            cluster.without_token.append(request.path)
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        if given != f"Bearer {cluster.token}":
            return web.Response(status=403, text="Forbidden: Invalid authentication token")
        return await handler(request)

    return check


def _handlers(cluster: Cluster) -> dict[str, Any]:
    async def mode(_: web.Request) -> web.Response:
        return web.json_response({"authentication_mode": "token" if cluster.token else "disabled"})

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0"})

    async def package(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in cluster.packages else 404)

    async def put_package(request: web.Request) -> web.Response:
        cluster.packages[request.match_info["name"]] = await request.read()
        return web.Response(status=200)

    async def submit(request: web.Request) -> web.Response:
        body = await request.json()
        if body["submission_id"] in cluster.jobs:
            return web.Response(status=500, text="Traceback ...\nValueError: Job already exists.")
        cluster.submitted.append(body)
        cluster.jobs[body["submission_id"]] = cluster.at_once | {"metadata": body["metadata"]}
        if cluster.lose_answer:
            cluster.lose_answer = False
            request.transport.abort()  # type: ignore[union-attr]
        return web.json_response({"submission_id": body["submission_id"]})

    async def job(request: web.Request) -> web.Response:
        if cluster.failures:
            return web.Response(status=cluster.failures.pop(0), text="Traceback ...\nRpcError: no head")
        found = cluster.jobs.get(request.match_info["id"])
        return web.json_response(found) if found else web.Response(status=404, text="does not exist")

    async def stop(request: web.Request) -> web.Response:
        cluster.stopped.append(request.match_info["id"])
        cluster.after = {"status": "STOPPED", "driver_exit_code": None}
        return web.json_response({"stopped": True})

    async def log(_: web.Request) -> web.Response:
        return web.json_response({"logs": cluster.log})

    async def tail(request: web.Request) -> web.StreamResponse:
        if cluster.no_websockets:
            return web.Response(status=cluster.no_websockets.pop(0))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for text in cluster.script.pop(0) if cluster.script else [cluster.log]:
            if text == "cut":
                request.transport.abort()  # type: ignore[union-attr]
                return socket
            if text == "wait":
                await asyncio.sleep(1)
                continue
            await socket.send_str(text)
        if not cluster.script:
            cluster.jobs[request.match_info["id"]] |= cluster.after
        await socket.close()
        return socket

    return {
        "mode": mode,
        "version": version,
        "package": package,
        "put_package": put_package,
        "submit": submit,
        "job": job,
        "stop": stop,
        "log": log,
        "tail": tail,
    }
