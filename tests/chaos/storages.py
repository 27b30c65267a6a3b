"""Where the images and the run of a schedule lie: a disk, or a bucket; looked at from outside, past all faults."""

import io
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import victims
from support.ceph import start_ceph, wipe_ceph

from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.records import Row


class Storage(Protocol):
    """A place with images at ``source``, where runs may be written to ``at(name)``.

    ``variables`` are the AWS settings that a command needs for it.
    """

    source: str
    variables: dict[str, str]

    def at(self, name: str) -> str: ...

    def files(self, uri: str) -> dict[str, str]:
        """Names below ``uri``, relative to it, with their versions."""

    def read(self, uri: str) -> bytes: ...

    def put(self, name: str, data: bytes) -> None:
        """Write an image below ``source``, in place of one of that name."""

    def delete(self, name: str) -> None:
        """Remove an image below ``source``."""


class Disk:
    """Folders of this machine; ``images`` by name are written once."""

    variables: dict[str, str] = {}  # noqa: RUF012  never changed

    def __init__(self, folder: Path, images: dict[str, bytes]) -> None:
        self._folder, self.source = folder, str(folder / "images")
        for name, data in images.items():
            self.put(name, data)

    def at(self, name: str) -> str:
        return str(self._folder / name)

    def files(self, uri: str) -> dict[str, str]:
        found = {}
        for folder, _, names in os.walk(uri):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    info = os.stat(path)
                except FileNotFoundError:  # vanished since
                    continue
                found[os.path.relpath(path, uri)] = f"{info.st_ino}-{info.st_size}-{info.st_mtime_ns}"
        return found

    def read(self, uri: str) -> bytes:
        return Path(uri).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        place = Path(self.source, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def delete(self, name: str) -> None:
        Path(self.source, name).unlink()


class Bucket:
    """A new bucket of an S3 server; ``variables`` are the server's own, ``images`` by key are put once."""

    def __init__(self, variables: dict[str, str], images: dict[str, bytes]) -> None:
        import boto3
        from botocore.config import Config

        self.variables = variables
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name=variables.get("AWS_DEFAULT_REGION", "us-east-1"),
            config=Config(retries={"max_attempts": 8}, proxies={}),
        )
        self._bucket = f"chaos-{uuid.uuid4().hex[:12]}"
        self.source = f"s3://{self._bucket}/images"
        self._client.create_bucket(Bucket=self._bucket)
        for name, data in images.items():
            self.put(name, data)

    def at(self, name: str) -> str:
        return f"s3://{self._bucket}/{name}"

    def files(self, uri: str) -> dict[str, str]:
        prefix = uri.removeprefix(f"s3://{self._bucket}/") + "/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        objects = [entry for page in pages for entry in page.get("Contents", [])]
        return {entry["Key"].removeprefix(prefix): entry["ETag"] for entry in objects}

    def read(self, uri: str) -> bytes:
        key = uri.removeprefix(f"s3://{self._bucket}/")
        try:
            return bytes(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())
        except self._client.exceptions.NoSuchKey as error:
            raise FileNotFoundError(uri) from error

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"images/{name}", Body=data)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"images/{name}")


def images(count: int) -> dict[str, bytes]:
    """Drawn scenes as files, in two folders; every fiftieth is broken."""
    from PIL import Image

    found = {}
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(draw_scene(VAL_SEED + number).image).save(file, "PNG")
        data = file.getvalue()
        name = f"{'more/' if number % 3 == 0 else ''}scene {number:04d}.png"
        found[name] = data[: len(data) // 2] if number % 50 == 25 else data
    return found


def rows_of(storage: Storage, uri: str) -> list[Row]:
    """All rows of a run as they are in its annotations, by uri."""
    names = [name for name in storage.files(uri) if name.startswith("annotations/") and name.endswith(".parquet")]
    tables = [pq.read_table(io.BytesIO(storage.read(f"{uri}/{name}"))) for name in sorted(names)]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: (row["uri"], row["image_id"]))


@contextmanager
def s3_server(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """The AWS variables of a moto or ceph server of our own; ``folder`` is for its files."""
    fixed = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    if kind == "moto":
        with _moto() as variables:
            yield {**variables, **fixed}
    else:
        with _ceph(folder) as variables:
            yield {**fixed, **variables}


@contextmanager
def _moto() -> Iterator[dict[str, str]]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=victims.die_with_parent
    )
    try:
        wait_for_port(port, server)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "moto-key",
            "AWS_SECRET_ACCESS_KEY": "moto-secret",
        }
    finally:
        server.kill()
        server.wait()


@contextmanager
def _ceph(folder: Path) -> Iterator[dict[str, str]]:
    try:
        yield start_ceph(folder)
    finally:
        wipe_ceph(folder)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, server: "subprocess.Popen[Any]", seconds: float = 60) -> None:
    """Return when somebody listens. Raises RuntimeError when the server ends, or after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"no server came up on port {port}")
