"""Models in buckets: what is fetched, once, in parts, and what is refused. Nothing here leaves the machine."""

import errno
import os
import random
import threading
from pathlib import Path

import pytest
from support.hand_made import make_model
from support.model_places import refusal
from support.s3_servers import S3Endpoint

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.models import source as model_source
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.storage import retries
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3 import store as s3
from m2f_batch.storage.store import Entry

FILES = {"config.json", "preprocessor_config.json", "model.safetensors"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched models go in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "m2f-batch" / "models"


@pytest.fixture
def bucket(moto_s3: S3Endpoint, tmp_path: Path) -> S3Endpoint:
    """A model under m/, with much else beside and below it."""
    made = make_model(tmp_path / "made", task="panoptic")
    moto_s3.put({f"m/{file.name}": file.read_bytes() for file in made.iterdir()})
    noise = ["modeling.py", "pytorch_model.bin", "optimizer.safetensors", "training.json", "checkpoints/1/config.json"]
    moto_s3.put({f"m/{name}": b"noise" for name in [*noise, "checkpoints/1/model.safetensors"]})
    moto_s3.put({"m-other/config.json": b"{}", "config.json": b"{}"})
    return moto_s3


def count_reads(monkeypatch: pytest.MonkeyPatch, uri: str) -> list[str]:
    """The uris that are read from a store, as they are read."""
    store = open_store(uri)
    reads: list[str] = []
    download = store.download

    def counted(entry: Entry, file: Path) -> bool:
        reads.append(entry.uri)
        return download(entry, file)

    monkeypatch.setattr(store, "download", counted)
    return reads


def test_a_bucket_is_fetched_once_and_only_what_is_wanted(
    bucket: S3Endpoint, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(f"{bucket.uri}/m/")
    assert (source.uri, source.kind) == (f"{bucket.uri}/m", "bucket") and len(source.revision or "") == 40
    assert find_model(f"{bucket.uri}/m") == source and not cache.exists()
    reads = count_reads(monkeypatch, bucket.uri)
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(local_directory(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {cache / str(source.revision)} and len(results) == 4
    assert sorted(reads) == sorted(f"{bucket.uri}/m/{name}" for name in FILES)
    for name in FILES:
        assert (results[0] / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert {file.name for file in results[0].iterdir()} == FILES
    assert read_checkpoint(results[0], source.uri).trained_task == "panoptic"
    assert not list(cache.glob("*.partial"))


def test_a_fetch_that_was_killed_is_done_anew(bucket: S3Endpoint, cache: Path) -> None:
    source = find_model(f"{bucket.uri}/m")
    (cache / f"{source.revision}.partial").mkdir(parents=True)
    (cache / f"{source.revision}.partial" / "model-9.safetensors").write_bytes(b"half")
    assert {file.name for file in local_directory(source).iterdir()} == FILES


def test_a_changed_bucket_has_another_revision_and_stops_a_run(bucket: S3Endpoint, cache: Path) -> None:
    source = find_model(f"{bucket.uri}/m")
    bucket.put({"m/checkpoints/2/config.json": b"more", "m/modeling.py": b"other"})
    assert find_model(f"{bucket.uri}/m") == source
    bucket.put({"m/preprocessor_config.json": b"{}"})
    with pytest.raises(RunError, match="changed while the run was going on; start the run again"):
        local_directory(source)
    assert find_model(f"{bucket.uri}/m").revision != source.revision
    bucket.client().delete_object(Bucket=bucket.bucket, Key="m/config.json")
    with pytest.raises(RunError, match="changed while"):
        local_directory(source)
    assert not (cache / str(source.revision)).exists()


def test_a_file_that_changes_while_it_is_fetched_stops_a_run(
    bucket: S3Endpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(f"{bucket.uri}/m")
    listed = model_source._bucket_files(source)
    bucket.put({"m/preprocessor_config.json": b"{}"})
    monkeypatch.setattr(model_source, "_bucket_files", lambda source: listed)
    with pytest.raises(RunError, match="changed while"):
        local_directory(source)
    assert not (cache / str(source.revision)).exists()


def test_a_large_file_comes_in_parts_and_is_never_held_as_a_whole(
    moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 100_000)
    monkeypatch.setattr(s3, "CHUNK_BYTES", 10_000)
    pieces: list[int] = []
    pwrite = os.pwrite

    def counted(target: int, data: bytes, at: int) -> int:
        pieces.append(len(data))
        return pwrite(target, data, at)

    monkeypatch.setattr(s3.os, "pwrite", counted)
    data = random.Random(1).randbytes(1_000_007)
    moto_s3.put({"m/model.safetensors": data})
    store, file = open_store(f"{moto_s3.uri}/m"), tmp_path / "model.safetensors"
    (entry,) = store.list(f"{moto_s3.uri}/m")
    assert store.download(entry, file)
    assert file.read_bytes() == data
    assert (sum(pieces), max(pieces)) == (len(data), 10_000)


def test_a_large_file_that_changes_between_its_parts(
    bucket: S3Endpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 100_000)
    source = find_model(f"{bucket.uri}/m")
    listed = model_source._bucket_files(source)
    (weights,) = (entry for entry in listed if entry.uri.endswith("/model.safetensors"))
    bucket.put({"m/model.safetensors": bytes(weights.size)})
    monkeypatch.setattr(model_source, "_bucket_files", lambda source: listed)
    with pytest.raises(RunError, match="changed while"):
        local_directory(source)
    bucket.put({"m/model.safetensors": bytes(50_000)})  # its later parts are not there at all
    with pytest.raises(RunError, match=r"model\.uri: "):
        local_directory(source)
    assert not (cache / str(source.revision)).exists()


def test_a_part_that_breaks_off_is_fetched_again(
    moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 100_000)
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)
    data = random.Random(1).randbytes(250_000)
    moto_s3.put({"m/model.safetensors": data})
    store = s3.S3Store(moto_s3.client())
    (entry,) = store.list(f"{moto_s3.uri}/m")
    part, tries = store._part, []

    def broken_once(entry: Entry, target: int, start: int) -> bool:
        tries.append(start)
        if tries.count(start) == 1:
            raise TransientError("reset")
        return part(entry, target, start)

    monkeypatch.setattr(store, "_part", broken_once)
    assert store.download(entry, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    assert sorted(tries) == [0, 0, 100_000, 100_000, 200_000, 200_000]


def test_a_gateway_that_sends_all_of_a_file_whatever_is_asked_for(
    moto_s3: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 100_000)
    data = random.Random(1).randbytes(250_000)
    moto_s3.put({"m/model.safetensors": data})
    store = s3.S3Store(moto_s3.client())
    (entry,) = store.list(f"{moto_s3.uri}/m")
    get = store._get
    monkeypatch.setattr(store, "_get", lambda uri, **_: get(uri))
    assert store.download(entry, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_is_no_fault_of_the_bucket(
    bucket: S3Endpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 10)

    def full(target: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(s3.os, "pwrite", full)
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises((RunError, UsageError), match=r"cannot be kept in .*No space left on device"):
        local_directory(find_model(f"{bucket.uri}/m"))


def test_buckets_that_hold_no_model(bucket: S3Endpoint) -> None:
    assert refusal(f"{bucket.uri}/m/checkpoints") == (
        f"model.uri: {bucket.uri}/m/checkpoints holds no config.json; give the URI of a Hugging Face directory"
    )
    assert "holds no config.json" in refusal(f"{bucket.uri}/nothing")
    assert refusal("s3://no-such-bucket-here/m").startswith("model.uri: s3://no-such-bucket-here/m: no such bucket")
    assert refusal(f"{bucket.uri}/m", "main") == (
        f"model.revision: 'main' needs a hub id in model.uri, not the URI {bucket.uri}/m"
    )


@pytest.mark.parametrize("uri", ["gopher://a/b", "s3://", "s3://key:secret@bucket/m"])
def test_uris_that_name_no_place(uri: str) -> None:
    message = refusal(uri)
    assert message.startswith("model.uri: ") and "secret" not in message


def test_the_top_of_a_bucket(moto_s3: S3Endpoint, cache: Path, tmp_path: Path) -> None:
    moto_s3.put({file.name: file.read_bytes() for file in make_model(tmp_path / "made").iterdir()})
    assert {file.name for file in local_directory(find_model(moto_s3.uri)).iterdir()} == FILES


def test_another_pyarrow_file_system(tmp_path: Path, cache: Path) -> None:
    place = f"mock:///{tmp_path.name}"
    store = open_store(place)
    for file in make_model(tmp_path / "made").iterdir():
        store.write(f"{place}/m/{file.name}", file.read_bytes())
    store.write(f"{place}/m/checkpoints/config.json", b"{}")
    assert {file.name for file in local_directory(find_model(f"{place}/m")).iterdir()} == FILES


def test_faults_that_may_pass_and_faults_of_this_machine(
    bucket: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(f"{bucket.uri}/m")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"model.uri: cannot be kept in .*; set XDG_CACHE_HOME"):
        local_directory(source)

    def away(folder: str, start: str = "") -> None:
        raise TransientError("s3://b: SlowDown")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(open_store(bucket.uri), "list", away)
    for ask in (lambda: find_model(f"{bucket.uri}/m"), lambda: local_directory(source)):
        with pytest.raises(RunError, match=r"model.uri: s3://b: SlowDown; the same command may succeed later"):
            ask()
