"""Every way to a store, a manifest, a model or a child process keeps to the allow-lists."""

import json
import os
import pickle
import re
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2f_batch.cli import main
from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.errors import ImageError, RunError, UsageError
from m2f_batch.flow.crashes.isolated_child import Child
from m2f_batch.flow.job import segment
from m2f_batch.inputs.fetch import fetch
from m2f_batch.inputs.listing import list_input
from m2f_batch.models.source import ModelSource, find_model, local_directory
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow
from m2f_batch.storage.allow import NotAllowed, is_allowed
from m2f_batch.storage.guarded import GuardedStore
from m2f_batch.storage.places import open_store, stat_many
from m2f_batch.storage.s3.store import S3Store
from m2f_batch.storage.store import Entry, Store

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_lists(monkeypatch):
    monkeypatch.delenv(allow.OF_MACHINE, raising=False)
    monkeypatch.delenv(allow.OF_DRIVER, raising=False)


@pytest.fixture
def confine():
    """``allow.confine`` for the rest of a test, or up to the next."""
    with ExitStack() as stack:
        yield lambda entries, places: stack.enter_context(allow.confine(entries, places))


@pytest.fixture
def tree(tmp_path):
    """allowed/ with an image and links out of it, and secret/ beside it."""
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    (secret / "deep").mkdir(parents=True)
    allowed.mkdir()
    (allowed / "a.jpg").write_bytes(b"image")
    (secret / "s.jpg").write_bytes(b"CANARY")
    (secret / "deep" / "t.jpg").write_bytes(b"CANARY")
    (allowed / "file.jpg").symlink_to(secret / "s.jpg")
    (allowed / "folder").symlink_to(secret)
    (allowed / "inside.jpg").symlink_to(allowed / "a.jpg")
    (allowed / "loop").symlink_to(allowed)
    return tmp_path


def test_local_paths_are_compared_as_they_are_behind_their_links(tree, monkeypatch, confine):
    allowed = tree / "allowed"
    (tree / "alias").symlink_to(allowed)
    (tree / "blank folder").mkdir()
    monkeypatch.chdir(tree)
    for entry in (str(allowed), f"{allowed}/", f"file://{allowed}", str(tree / "alias"), "allowed", "./alias"):
        confine([entry], {})
        for uri in ("allowed/a.jpg", "alias/a.jpg", f"file://{allowed}/a.jpg", f"FILE://host{allowed}/%61.jpg"):
            assert is_allowed(uri), (entry, uri)
        for uri in (
            *("allowed/file.jpg", "allowed/folder/s.jpg", "alias/folder/deep/t.jpg", "allowed/../secret/s.jpg"),
            *("allowed-2/a.jpg", "/etc/passwd", "file:///etc/passwd", f"file://{allowed}/%2e%2e/secret/s.jpg"),
            *(f"/proc/self/root{tree}/secret/s.jpg", f"/dev/fd/../../{tree}/secret", ".", "/"),
        ):
            assert not is_allowed(uri), (entry, uri)
    confine([f"file://{tree}/blank%20folder"], {})
    assert is_allowed(str(tree / "blank folder" / "x"))


def test_places_of_a_config_are_refused_by_field(tree, confine):
    fields = {"input.uri": str(tree / "allowed/*.jpg"), "input.root": None, "output.uri": str(tree / "allowed/out")}
    confine([str(tree / "allowed")], fields)
    for field, uri in [
        ("input.uri", "s3://b/x"),
        ("input.uri", str(tree / "secret/*.jpg")),
        ("input.uri", str(tree / "*/a.jpg")),
        ("output.uri", str(tree / "allowed/folder/out")),
        ("input.root", "gs://b?endpoint_override=http://169.254.169.254"),
    ]:
        with pytest.raises(UsageError, match=f"^{field}: "):
            confine([str(tree / "allowed")], fields | {field: uri})


def test_every_method_of_a_store_is_guarded(tree, confine):
    confine([str(tree / "allowed")], {})
    secret = str(tree / "secret" / "s.jpg")
    store = open_store(secret)
    assert isinstance(store, GuardedStore)
    calls = {
        "list": lambda: [*store.list(str(tree / "secret"))],
        "pages": lambda: [*store.pages(str(tree / "secret"))],
        "is_folder": lambda: store.is_folder(str(tree / "secret")),
        "stat": lambda: store.stat(secret),
        "read": lambda: store.read(secret),
        "read_entry": lambda: store.read_entry(secret),
        "download": lambda: store.download(Entry(secret, 1, "1"), tree / "allowed" / "copy"),
        "is_version": lambda: store.is_version(Entry(secret, 1, "1"), "2"),
        "exists": lambda: store.exists(secret),
        "age": lambda: store.age(secret),
        "write": lambda: store.write(secret, b""),
        "write_new": lambda: store.write_new(secret + "2", b""),
        "replace": lambda: store.replace(secret, b"", "1"),
        "upload": lambda: store.upload(tree / "allowed" / "a.jpg", secret),
        "delete": lambda: store.delete([secret]),
        "_delete": lambda: store._delete(secret, None),
        "open_staging": lambda: store.open_staging(str(tree / "secret" / "tmp")),
        "close_staging": lambda: store.close_staging(str(tree / "secret")),
        "prune": lambda: store.prune(str(tree / "secret")),
    }
    public = {name for name, member in vars(Store).items() if callable(member) and not name.startswith("__")}
    assert public - calls.keys() == {"stat_many", "_stat_or_none"}  # a new method is to be tried here
    for name, call in calls.items():
        with pytest.raises(NotAllowed):
            call()
        assert sorted(os.listdir(tree / "secret")) == ["deep", "s.jpg"], name
    staging = str(tree / "secret" / "tmp")
    with pytest.raises(NotAllowed):  # a file is moved from there
        store.write(str(tree / "allowed" / "new"), b"", staging=staging)
    assert store.stat_many([secret, str(tree / "allowed" / "a.jpg"), secret])[1].size == 5
    assert [entry and entry.size for entry in stat_many([secret, str(tree / "allowed" / "a.jpg")])] == [None, 5]
    assert store.is_exclusive


def test_a_forbidden_scheme_opens_nothing(monkeypatch, confine):
    confine(["/data"], {})
    monkeypatch.setattr("m2f_batch.storage.places._open", lambda *_: pytest.fail("opened"))
    names = [
        "abfs://c@169.254.169.254/latest/meta-data/x.jpg",
        "s3://b/x.jpg",
        "gs://b/x",
        "hdfs://169.254.169.254:80/x",
    ]
    assert stat_many(names) == [None] * 4
    for name in names:
        with pytest.raises(ImageError) as caught:
            fetch(ImageRef(name, ""))
        assert (caught.value.stage, caught.value.reason) == ("fetch", "NotAllowed")


@pytest.mark.parametrize(
    "uri",
    ["gs://b?endpoint_override=127.0.0.1:9&scheme=http/x", "s3://b?endpoint_override=http://127.0.0.1/x", "gs://b#x/y"],
)
def test_options_of_file_systems_are_never_taken(uri):
    with pytest.raises(UsageError, match="options are not taken"):
        open_store(uri)


@pytest.mark.parametrize("scheme", ["fsspec+http", "fsspec+file", "FSSPEC+file", "ftp", "zip", "file+x"])
def test_other_schemes_name_no_place_with_or_without_a_list(scheme, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"CANARY")
    (tmp_path / "list.txt").write_text(f"{scheme}://{tmp_path}/a.jpg\n")
    for entries in (None, ["/", "s3://"]):
        with allow.confine(entries, {}):
            for open_it in (open_store, list_input, lambda uri: stat_many([uri])):
                with pytest.raises(UsageError, match=rf"{re.escape(scheme.lower())}://\.\.\.: no scheme of files"):
                    open_it(f"{scheme}://{tmp_path}/a.jpg")
            with pytest.raises(UsageError, match="no scheme of files"):
                list_input(str(tmp_path / "list.txt"))


class Bucket:
    """An S3 client: what was listed, of the keys a/0 ... c/59 and m."""

    def __init__(self):
        self.prefixes = []
        self.keys = sorted([f"{folder}/{number}" for folder in "abc" for number in range(60)] + ["m", "m/0"])

    def list_objects_v2(self, *, Bucket, Prefix, MaxKeys, StartAfter=""):
        self.prefixes.append(Prefix)
        found = [key for key in self.keys if key.startswith(Prefix) and key > StartAfter]
        contents = [{"Key": key, "Size": 1, "ETag": f'"{key}"'} for key in found[:MaxKeys]]
        return {"Contents": contents, "IsTruncated": len(found) > MaxKeys, "KeyCount": len(contents)}

    def head_object(self, *, Bucket, Key):
        return {"ContentLength": 1, "ETag": f'"{Key}"'}


def test_many_objects_are_looked_at_without_listing_what_lies_between(confine, monkeypatch):
    bucket = Bucket()
    store = GuardedStore(lambda: S3Store(bucket))
    named = [f"s3://k/{key}" for key in ["c/1", *bucket.keys[::-1], "c/1", "c/gone"]]
    confine(["s3://k/a/", "s3://k/c", "s3://k/m"], {})
    monkeypatch.setenv(allow.OF_MACHINE, "s3://k")
    found = store.stat_many(named)
    assert [entry and entry.uri for entry in found] == [
        None if uri.startswith("s3://k/b/") or uri == "s3://k/c/gone" else uri for uri in named
    ]
    assert {*bucket.prefixes} == {"a/", "c/"}


def test_a_guarded_store_travels_and_keeps_to_the_lists_there(tree, monkeypatch, confine):
    confine([str(tree / "allowed")], {})
    store = pickle.loads(pickle.dumps(open_store(str(tree))))
    assert store.read(str(tree / "allowed" / "a.jpg")) == b"image"
    confine(None, {})
    monkeypatch.setenv(allow.OF_MACHINE, "/nowhere")
    with pytest.raises(NotAllowed):
        store.read(str(tree / "allowed" / "a.jpg"))


def test_a_listing_looks_behind_no_link_that_leaves(tree, monkeypatch, confine):
    confine([str(tree / "allowed")], {})
    real, scanned = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or real(path))
    listing = list_input(str(tree / "allowed")).table.to_pylist()
    names = {row["uri"].rpartition("/")[2]: row["version"] for row in listing}
    assert names.keys() == {"a.jpg", "inside.jpg", "file.jpg", "folder"}
    assert names["file.jpg"] == names["folder"] == "" and names["a.jpg"] and names["inside.jpg"]
    assert not [path for path in scanned if "folder" in path or "secret" in path]
    for row in listing:
        ref = ImageRef(row["uri"], row["version"])
        if row["version"]:
            assert fetch(ref) == b"image"
        else:
            with pytest.raises(ImageError, match="NotAllowed"):
                fetch(ref)


def test_names_in_manifests_and_coco_files_that_leave_are_images_that_cannot_be_seen(tree, confine):
    allowed = tree / "allowed"
    names = [
        "a.jpg",
        "../secret/s.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "abfs://c@169.254.169.254/x",
        "s3://b/x.jpg",
    ]
    (allowed / "list.txt").write_text("\n".join(names))
    (allowed / "list.jsonl").write_text("\n".join(json.dumps({"uri": name}) for name in names))
    pq.write_table(pa.table({"uri": names}), allowed / "list.parquet")
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    (allowed / "coco.json").write_text(json.dumps({"images": images}))
    confine([str(allowed)], {})
    for file in ("list.txt", "list.jsonl", "list.parquet", "coco.json"):
        rows = list_input(str(allowed / file)).table.to_pylist()
        assert {row["uri"] for row in rows if row["version"]} == {str(allowed / "a.jpg")}
        # the two spellings of /etc/passwd are one
        assert len(rows) == 5
        for row in rows:
            if not row["version"]:
                with pytest.raises(ImageError, match="NotAllowed"):
                    fetch(ImageRef(row["uri"], ""))


def test_models_must_be_listed_too(tree, monkeypatch, confine):
    model = tree / "allowed" / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    confine([str(tree / "allowed"), "hf://owner/name", f"hf://other/name@{COMMIT}"], {})
    monkeypatch.setattr("m2f_batch.models.source._pin_hub", lambda source: source)
    assert find_model(str(model)).kind == "directory"
    assert find_model("owner/name@main").revision == "main"
    assert find_model("other/name", COMMIT).uri == "other/name"
    for uri in (
        "owner/name2",
        "other/name",
        "other/name@main",
        "x/y",
        "s3://b/model",
        "gs://b/m",
        str(tree / "secret"),
    ):
        with pytest.raises(UsageError, match=r"^model\.uri: .*outside storage\.allow"):
            find_model(uri)
    # on a node, which may have a list of its own
    for source in (
        ModelSource("x/y", "hub", COMMIT),
        ModelSource("s3://b/m", "bucket", "1"),
        ModelSource("/etc", "directory"),
    ):
        with pytest.raises(RunError, match=r"^model\.uri: .*outside storage\.allow"):
            local_directory(source)
    assert local_directory(ModelSource(str(model), "directory")) == model
    (model / "README.md").symlink_to(tree / "secret" / "s.jpg")
    with pytest.raises(UsageError, match=r"README\.md: lies outside"):
        find_model(str(model))


def _answers():
    return lambda item, enter: is_allowed(item)


def test_a_list_ends_with_its_job(tree):
    config = {
        "input": {"uri": str(tree / "secret")},
        "model": {"uri": "b"},
        "output": {"uri": str(tree / "allowed/out")},
    }
    config = check_config(SegmentConfig, config | {"storage": {"allow": [str(tree / "allowed")]}})
    with pytest.raises(UsageError, match=r"^input\.uri: .*lies outside storage\.allow"):
        segment(config)
    assert not allow.is_confined()
    with allow.confine(["s3://b"], {}):
        with pytest.raises(UsageError, match=r"storage\.allow"), allow.confine(["s3://c"], {"a": "s3://b/x"}):
            pytest.fail("let in")
        with pytest.raises(KeyError), allow.confine(None, {}):
            assert not allow.is_confined()
            raise KeyError
        assert is_allowed("s3://b/x") and not is_allowed("s3://c/x")
    assert not allow.is_confined()


def test_lint_keeps_to_the_list_and_may_name_a_model_of_the_hub(tree, capsys):
    allowed, outside = tree / "allowed", tree / "outside"
    for folder in (allowed / "data", outside):
        write_dataset(folder, train=1, val=1)

    def said(model="owner/name", **places):
        data = {"format": "coco-panoptic", "train": str(allowed / "data/train.json")}
        data |= {f"train_{kind}": str(allowed / "data/train" / kind) for kind in ("images", "masks")}
        config = {"data": data | places, "model": {"uri": model}, "train": {"steps": 1}}
        listed = {"allow": [str(allowed), "hf://owner/name"]}
        (file := tree / "config.yaml").write_text(json.dumps(config | {"storage": listed}))
        code = main(["lint", "--config", str(file)])
        assert not allow.is_confined()
        return code, "".join(capsys.readouterr())

    assert said()[0] == 0
    assert said("other/name")[0] == 0  # it is not looked at
    code, text = said(str(outside))
    assert code == 2 and f"model.uri: {outside}: lies outside storage.allow" in text
    for field, place in {
        "train": str(outside / "train.json"),
        "train_images": str(outside / "train/images"),
        "val": str(outside / "val.json"),
        "train_masks": "s3://b/masks",
    }.items():
        code, text = said(**{field: place})
        assert code == 2 and f"data.{field}: {place}: lies outside storage.allow" in text


@pytest.mark.slow
def test_child_processes_know_the_list(tree, confine):
    confine([str(tree / "allowed")], {})
    child = Child(_answers, {"start": 60.0, "look": 60.0})
    try:
        assert child.ask(str(tree / "allowed" / "a.jpg"), "look") is True
        assert child.ask(str(tree / "secret" / "s.jpg"), "look") is False
    finally:
        child.close()
