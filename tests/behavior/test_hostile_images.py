"""Hostile images and models that bring code: each image becomes a row, whatever it is, and no code runs.

Without Ray: the stages are called one after the other.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of
from support.hostile import SECRETS, World, chunk, guarding, pipe, png, world_in

from m2f_batch.cli import main
from m2f_batch.storage.allow import OF_MACHINE, confine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(autouse=True)
def guarded(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with guarding(world, monkeypatch):
        yield


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header says a size, with one scan line of pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 10_000_000)
    return file.getvalue()


# name of an image, its bytes (None: there is none), and the error of its row (None: it has none)
IMAGES: dict[str, tuple[bytes | None, str | None]] = {
    "/etc/passwd": (None, "fetch/NotAllowed"),
    "../secret/s.png": (None, "fetch/NotAllowed"),
    "link/s.png": (None, "fetch/NotAllowed"),
    "s3://mine/private/x.png": (None, "fetch/NotAllowed"),
    "s3://theirs/images/x.png": (None, "fetch/NotAllowed"),
    "gs://theirs/x.png": (None, "fetch/NotAllowed"),
    "hdfs://169.254.169.254:80/latest/meta-data/": (None, "fetch/NotAllowed"),
    "http://169.254.169.254/latest/meta-data/x.png": (None, "fetch/NotAllowed"),
    "abfs://c@169.254.169.254/x.png": (None, "fetch/NotAllowed"),
    "/dev/zero": (None, "fetch/NotAllowed"),
    "/proc/self/environ": (None, "fetch/NotAllowed"),
    "round.png": (None, "fetch/Unreadable"),  # a link to itself
    "pipe.png": (None, "fetch/Unreadable"),
    "folder.png": (None, "fetch/Unreadable"),
    "new\nline \x1b[31m.png": (None, "fetch/NotFound"),
    "=HYPERLINK(1).png": (None, "fetch/NotFound"),
    "x" * 300 + ".png": (None, "fetch/Unreadable"),
    "30000x30000.png": (png_of(30_000, 30_000), "decode/TooManyPixels"),
    "no-size.png": (png_of(0, 0), None),
    "text-bomb.png": (
        png_of(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 100_000_000))),
        "decode/Truncated",  # the text is never inflated, and the pixels are missing
    ),
    "vector.png": (
        b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "decode/NotAnImage",
    ),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch executed) (w) file\n", "decode/NotAnImage"),
    "pickle.jpg": (b"pickle", "decode/NotAnImage"),
    "archive.jpg": (zipped(), "decode/NotAnImage"),
    "good.png": (png(40, 30), None),
}


def test_hostile_images_become_rows_and_no_remote_code_runs(world, capfd):
    folder = world.allowed
    for name, (content, _) in IMAGES.items():
        if content is not None:
            world.write(name, world.bomb if content == b"pickle" else content)
    (folder / "folder.png").mkdir()
    (folder / "round.png").symlink_to("round.png")
    pipe(world, "pipe.png")
    manifest = world.write("images.jsonl", "\n".join(json.dumps({"uri": name}) for name in IMAGES))
    code = {"auto_map": {"AutoModel": "evil.Evil", "AutoModelForUniversalSegmentation": "evil.Evil"}}
    model = world.model("remote", code, evil__py=world.code, image_processing_evil__py=world.code)
    processor = json.loads((Path(model) / "preprocessor_config.json").read_text())
    processor["auto_map"] = {"AutoImageProcessor": "image_processing_evil.Evil"}
    (Path(model) / "preprocessor_config.json").write_text(json.dumps(processor))
    allow = [str(folder), "s3://mine/images/"]
    output = world.outputs / "run"
    config = config_of(manifest, output, model, storage={"allow": allow})
    with confine(config.storage.allow, {}):
        assert in_process(config) == 0
    got = {row["uri"].removeprefix(f"{folder}/"): row for row in rows_of(output)}
    wanted = {name.replace("../secret", str(world.secret)): error for name, (_, error) in IMAGES.items()}
    assert got.keys() == wanted.keys()
    for name, row in got.items():
        error = row["error"] and f"{row['error']['stage']}/{row['error']['type']}"
        if name == "no-size.png":  # Pillow's words for it are its own
            assert error is not None and error.startswith("decode/")
            continue
        assert error == wanted[name], (name, row["error"])
        assert error is None or row["error"]["message"].isprintable()
    info = json.loads((output / "run.json").read_text())
    assert info["images"]["ok"] == 1 and info["images"]["remaining"] == 0
    # the rest of the commands that look at such a run
    (folder / "secret-link.json").symlink_to(world.secret / "x.json")
    for command in (["export", str(output), str(world.secret / "x.json"), "--format", "coco"], ["status", str(output)]):
        main(command)
    assert not (world.secret / "x.json").exists()
    said = "".join(capfd.readouterr())
    assert all(char.isprintable() or char == "\n" for char in said)
    assert not [secret for secret in SECRETS if secret in said]
    no_secret_in(world.outputs)


def test_another_list_makes_images_seen_and_unseen(world, tmp_path, monkeypatch):
    """The rows of the same command are always those of one run by the list that holds now."""
    monkeypatch.setenv(OF_MACHINE, "/")
    (tmp_path / "inside").mkdir()
    for name in ("inside/a.png", "b.png"):
        (tmp_path / name).write_bytes(png(20, 20))
    (tmp_path / "inside" / "list.txt").write_text("a.png\n../b.png\n")
    narrow, wide = [str(tmp_path / "inside"), str(tmp_path / "out")], [str(tmp_path)]
    for allow, wanted in ((narrow, "NotAllowed"), (wide, None), (narrow, "NotAllowed")):
        storage = {"allow": [*allow, str(DEMO_MODEL)]}
        config = config_of(tmp_path / "inside/list.txt", tmp_path / "out", DEMO_MODEL, storage=storage)
        source = config.input.model_copy(update={"max_removed_fraction": 1.0})
        with confine(config.storage.allow, {}):
            assert in_process(config.model_copy(update={"input": source})) == 0
        got = {row["uri"]: row["error"] and row["error"]["type"] for row in rows_of(tmp_path / "out")}
        assert got == {str(tmp_path / "inside/a.png"): None, str(tmp_path / "b.png"): wanted}


def no_secret_in(folder: Path) -> None:
    """Not in any file, nor in any text of a Parquet file, whose pages are compressed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":
            texts.append(json.dumps(pq.read_table(path).to_pylist(), default=str).encode())
        assert not [secret for secret in SECRETS if any(secret.encode() in text for text in texts)], path
