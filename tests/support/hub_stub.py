"""A server on loopback that answers as the Hugging Face hub does: models, their files, revisions and pull requests.

with HubStub() as hub:
    hub.add("me/model", {"main": folder, "refs/pr/3": other})
    ...  # HF_ENDPOINT=hub.url
    hub.seen  # ["GET /api/models/me/model/revision/main", ...]
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class HubStub:
    """The running server; ``down`` paths (beginnings) are answered with 503."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Path]] = {}
        self.seen: list[str] = []
        self.down: tuple[str, ...] = ()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "HubStub":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, revisions: dict[str, Path]) -> None:
        """A model by its revisions, each the files of a folder."""
        self.models[name] = revisions

    def commit(self, name: str, revision: str) -> str:
        """The commit of a revision."""
        return hashlib.sha1(f"{name} {revision}".encode(), usedforsecurity=False).hexdigest()

    def folder(self, name: str, wanted: str) -> tuple[str, Path] | None:
        """The commit and the files of a revision, which may be given as its commit."""
        for revision, folder in self.models.get(name, {}).items():
            if wanted in (revision, self.commit(name, revision)):
                return self.commit(name, revision), folder
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: HubStub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.seen.append(f"{self.command} {path}")
        if path.startswith(hub.down) and hub.down:
            return self._send(503, b"")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._api(hub, "/".join(parts[2:4]), parts[4:])
        if parts[2:3] == ["resolve"]:
            return self._file(hub, "/".join(parts[:2]), parts[3], parts[-1])
        return self._send(404, b"")

    do_HEAD = do_GET  # the name that http.server looks for

    def _api(self, hub: HubStub, name: str, what: list[str]) -> None:
        if name not in hub.models:
            return self._missing()
        if what == ["refs"]:
            refs = [{"name": r, "ref": r, "targetCommit": hub.commit(name, r)} for r in hub.models[name]]
            requests = [ref for ref in refs if ref["ref"].startswith("refs/pr/")]
            branches = [ref | {"ref": f"refs/heads/{ref['name']}"} for ref in refs if ref not in requests]
            return self._json({"branches": branches, "tags": [], "converts": [], "pullRequests": requests})
        found = hub.folder(name, "/".join(what[1:]))
        if found is None:
            return self._missing()
        commit, folder = found
        files = sorted(file.name for file in folder.iterdir())
        if what[0] == "tree":
            return self._json([{"type": "file", "path": file, "oid": "0" * 40, "size": 1} for file in files])
        siblings = [{"rfilename": file} for file in files]
        return self._json({"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def _file(self, hub: HubStub, name: str, revision: str, file: str) -> None:
        found = hub.folder(name, revision)
        if found is None or not (found[1] / file).is_file():
            return self._missing()
        data = (found[1] / file).read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        self._send(200, data, {"X-Repo-Commit": found[0], "ETag": f'"{etag}"', "Accept-Ranges": "bytes"})

    def _missing(self) -> None:
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
