"""A world for hostile inputs: what may be read, what may not with a canary in it, and a server that must hear nothing.

Nothing is read outside the allow-list (no canary and no request), nothing is executed (no marker file), and no key
comes out.
"""

import http.server
import io
import json
import os
import pickle
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of, in_process
from support.stores import reset_stores

from m2f_batch.storage.allow import OF_MACHINE

CANARY = "canary-7c1f2b"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED12",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key/of/forty/characters",
    "AWS_SESSION_TOKEN": "plantedSessionToken0123456789",
    "HF_TOKEN": "hf_plantedplantedplantedplantedplant",
    "RAY_AUTH_TOKEN": "planted-ray-token-0123456789",
}
SIGNED = "0123456789abcdef" * 4
SECRETS = [*KEYS.values(), SIGNED, "hunter2hunter2", CANARY]


class World:
    """Folders ``allowed`` and ``secret``, and a server on the loopback that stands for the metadata address and S3."""

    def __init__(self, folder: Path) -> None:
        self.allowed, self.secret, self.marker = folder / "allowed", folder / "secret", folder / "executed"
        self.outputs = folder / "allowed" / "outputs"
        self.run = self.outputs / "finished"
        self.requests: list[str] = []
        world = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                world.requests.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(CANARY.encode())

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.outputs.mkdir(parents=True)
        self.secret.mkdir()
        (self.secret / "s.png").write_bytes(png(8, 8, text=CANARY))
        (self.secret / "s.txt").write_text(f"{CANARY}.jpg\n")
        (self.secret / "model.safetensors").write_text(CANARY)
        (self.allowed / "link").symlink_to(self.secret)
        (self.allowed / "good.png").write_bytes(png(40, 30))
        assert in_process(config_of(self.allowed / "good.png", self.run, DEMO_MODEL)) == 0

    def write(self, name: str, content: str | bytes) -> str:
        """A file in ``allowed``; its path."""
        path = self.allowed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def model(self, name: str, config: dict | None = None, **files: bytes | None) -> str:
        """The demo model in ``allowed`` with other keys in config.json, and other files (None: without)."""
        folder = self.allowed / name
        if not folder.exists():
            shutil.copytree(DEMO_MODEL, folder)
            tree = json.loads((folder / "config.json").read_text()) | (config or {})
            (folder / "config.json").write_text(json.dumps(tree))
            for file, content in files.items():
                path = folder / file.replace("__", ".")
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_bytes(content)
        return str(folder)

    @property
    def bomb(self) -> bytes:
        """A pickle that leaves a marker when it is loaded."""
        return pickle.dumps(Bomb(str(self.marker)))

    @property
    def code(self) -> bytes:
        """A module that does the same when it is imported."""
        return f"open({str(self.marker)!r}, 'w')\nclass Evil: pass\n".encode()


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def png(width: int, height: int, text: str = "") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(file, "PNG")
    data = file.getvalue()
    return data[:-12] + chunk(b"tEXt", b"Comment\0" + text.encode()) + data[-12:] if text else data


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pipe(world: World, name: str) -> str:
    path = world.allowed / name
    if not path.exists():
        os.mkfifo(path)
    return str(path)


@contextmanager
def world_in(folder: Path) -> Iterator[World]:
    """A world in a folder, whose server listens."""
    made = World(folder)
    yield made
    made.server.shutdown()
    made.server.server_close()


@contextmanager
def guarding(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keys planted, every address the loopback's, and an allow-list of the machine besides the job's."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(name, f"http://{world.host}")
    monkeypatch.setenv(OF_MACHINE, f"{world.allowed} {DEMO_MODEL} s3://mine gs:// hdfs:// hf://owner/")
    reset_stores()
    yield
    reset_stores()
    assert world.requests == []
    assert not world.marker.exists()
