"""Where models come from: directories, the hub's cache, buckets. Nothing here leaves the machine."""

import errno
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest
from support.hand_made import make_model
from support.s3_servers import S3Endpoint

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config
from m2f_batch.datasets.lint.command import queries_of_training
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.models import source as model_source
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.source import WANTED, ModelSource, find_model, local_directory
from m2f_batch.storage import allow, retries
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3 import store as s3
from m2f_batch.storage.store import Entry

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
FILES = {"config.json", "preprocessor_config.json", "model.safetensors"}


def refusal(uri: str, revision: str | None = None) -> str:
    """The one line with which model.uri is refused."""
    with pytest.raises(UsageError) as caught:
        find_model(uri, revision)
    assert "\n" not in str(caught.value)
    assert caught.value.field in ("model.uri", "model.revision"), "commands rename it"
    return str(caught.value)


# ---- directories


def test_a_directory_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "a b" / "m")
    expected = ModelSource(str(tmp_path / "a b" / "m"), "directory", None)
    monkeypatch.chdir(tmp_path / "a b")
    for uri in ("m", "./m/", "../a b/m", str(tmp_path / "a b" / "m"), f"file://{tmp_path}/a%20b/m"):
        assert find_model(uri) == expected
    assert local_directory(expected) == tmp_path / "a b" / "m"


def test_a_directory_wins_over_a_hub_id_and_takes_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "me" / "m")
    monkeypatch.chdir(tmp_path)
    assert find_model("me/m").kind == "directory"
    assert refusal("me/m", "main") == "model.revision: 'main' needs a hub id in model.uri, not the directory me/m"


def test_the_bundled_model_is_named_alike_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("m2f_batch/demo/model/").uri == str(model_source.PACKAGE / "demo" / "model")
    make_model(tmp_path / "m2f_batch/demo/model")
    assert find_model("m2f_batch/demo/model").uri == str(tmp_path / "m2f_batch/demo/model")


def test_lint_counts_the_queries_of_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, output = {"uri": "m2f_batch/demo/model"}, {"uri": "out"}
    config = check_config(
        FinetuneConfig, {"data": {"train": "a.json"}, "model": model, "output": output, "train": {"steps": 1}}
    )
    assert queries_of_training(config) == 16


def test_the_bundled_model_is_in_every_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    with allow.confine(["labels/"], {}):
        assert local_directory(find_model("m2f_batch/demo/model")) == model_source.OWN
        assert "lies outside storage.allow" in refusal("m")
    make_model(tmp_path / "m2f_batch/demo/model")
    with allow.confine(["labels/"], {}):
        assert "lies outside storage.allow" in refusal("m2f_batch/demo/model"), "a folder of that name is another model"


def test_a_directory_that_is_not_on_a_node(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model.uri: the directory .* is not on node .*shared path"):
        local_directory(ModelSource(str(tmp_path / "gone"), "directory"))


@pytest.mark.parametrize(
    "uri", ["nothing", "", "/no/such/folder", "./a/b", "a/b/c", "~/m", "a b/c", "a/b\n", "a\0b", "a/b@"]
)
def test_what_is_no_model_at_all(uri: str) -> None:
    assert refusal(uri).startswith(f"model.uri: {uri!r} is no directory here, no hub id")


def test_a_file_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = "give a Hugging Face directory with config.json and model.safetensors"
    (tmp_path / "m").mkdir()
    for name in ("best.pt", "mask2former.py"):
        (tmp_path / "m" / name).write_bytes(b"")
    (tmp_path / "m" / "weights").touch()
    monkeypatch.chdir(tmp_path)
    for uri in (str(tmp_path / "m/best.pt"), "m/best.pt", "./m/best.pt", f"file://{tmp_path}/m/best.pt"):
        assert refusal(uri).endswith(f"best.pt' is a file (.pt), which is not read; {wanted}")
    assert refusal("m/mask2former.py") == f"model.uri: 'm/mask2former.py' is a file (.py), which is not read; {wanted}"
    assert refusal("m/weights") == f"model.uri: 'm/weights' is a file, which is not read; {wanted}"
    (tmp_path / "m" / "config.json").write_text("{}")
    assert refusal("m/best.pt").endswith(wanted)  # its folder holds no model either
    (tmp_path / "m" / "model.safetensors").touch()
    told = f"model.uri: 'm/model.safetensors' is a file; give its directory, {tmp_path}/m"
    assert refusal("m/model.safetensors") == told


# ---- the hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str, commit: str, *refs: str) -> Path:
    """A snapshot as huggingface_hub lays it out, with links to blobs."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    for file in make_model(cache / "made").iterdir():
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    for ref in refs:
        (repo / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return snapshot


def test_a_hub_model_is_pinned_to_its_commit(hub_cache: Path) -> None:
    snapshot = put_in_cache(hub_cache, "me/m-panoptic", COMMIT, "main", "v1", "refs/pr/3")
    other = put_in_cache(hub_cache, "me/m-panoptic", OTHER, "next")
    pinned = ModelSource("me/m-panoptic", "hub", COMMIT)
    assert find_model("me/m-panoptic") == pinned
    for revision in ("main", "v1", "refs/pr/3", COMMIT):
        assert find_model(f"me/m-panoptic@{revision}") == pinned == find_model("me/m-panoptic", revision)
    assert find_model("me/m-panoptic@v1", "v1") == pinned
    assert find_model("me/m-panoptic@next").revision == OTHER
    assert local_directory(pinned) == snapshot
    assert local_directory(find_model("me/m-panoptic", OTHER)) == other
    assert read_checkpoint(snapshot, "me/m-panoptic").trained_task == "panoptic"


def test_a_hub_model_that_is_not_there(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "me/m", COMMIT, "main")
    for uri in ("me/other", "me/m@v9", f"me/m@{OTHER}"):
        message = refusal(uri)
        assert message.startswith(f"model.uri: {uri} is no directory here, nor in the hub's local cache, and the hub")
    with pytest.raises(RunError, match=r"model.uri: me/other@v1 is no directory here"):
        local_directory(ModelSource("me/other", "hub", "v1"))


def test_two_revisions(hub_cache: Path) -> None:
    assert refusal("me/m@v1", "v2") == ("model.revision: 'v2' and model.uri 'me/m@v1' name two revisions: keep one")


@pytest.mark.parametrize("uri", ["me/..", "me/m.git", "me/-m", "ü/m", "me/m--x"])
def test_names_that_the_hub_does_not_allow(hub_cache: Path, uri: str) -> None:
    assert refusal(uri).startswith(f"model.uri: {uri} cannot be had from the hub (HFValidationError: ")


def test_whatever_the_hub_raises_is_one_line(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    for error in (HTTPError("407\nproxy"), ValueError("Unknown scheme for proxy"), PermissionError(13, "denied")):

        def fail(*_: object, error: Exception = error, **__: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        assert refusal("me/m").startswith(f"model.uri: me/m cannot be had from the hub ({type(error).__name__}: ")
        with pytest.raises(RunError, match=r"model.uri: me/m@c cannot be had from the hub"):
            local_directory(ModelSource("me/m", "hub", "c"))


def test_only_the_pinned_commit_and_wanted_files_are_asked_for(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = put_in_cache(hub_cache, "me/m", COMMIT, "main")
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_directory(find_model("me/m@v1")) == snapshot
    assert asked == [("me/m", "v1", ["config.json"]), ("me/m", COMMIT, list(WANTED))]
    assert not any(pattern.endswith((".bin", ".py", ".pt", ".pkl", "*")) for pattern in WANTED)


# ---- buckets


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
