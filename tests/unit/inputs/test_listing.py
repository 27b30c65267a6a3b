"""INPUT in all its forms, on a disk, on moto and on Ceph."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.s3_servers import S3Endpoint, set_variables

from m2f_batch.errors import RunError, UsageError
from m2f_batch.inputs import listed
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS, Listing, list_input
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow
from m2f_batch.storage.places import open_store

pytest_plugins = ["support.s3_servers"]


@pytest.fixture(params=["local", "moto", "ceph"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(f"{request.param}_s3").uri


def _put(place: str, *names: str, data: bytes = b"x") -> None:
    for name in names:
        open_store(place).write(f"{place}/{name}", data)


PNG = b"\x89PNG\r\n\x1a\n"


def _names(listing: Listing, place: str) -> list[str]:
    return [uri.removeprefix(f"{place}/") for uri in listing.table["uri"].to_pylist()]


def test_a_folder_is_listed_to_the_bottom(place: str) -> None:
    images = ["in/b.JPG", "in/a.png", "in/deep/er/c.webp", "in/deep/no_extension", "in/ü b%25+#.tif"]
    others = ["in/notes.md", "in/_SUCCESS", "in/.hidden.jpg", "in/.cache/x.jpg", "in/a.png.txt"]
    _put(place, *images, *others, "in2/other.jpg")
    listing = list_input(f"{place}/in")
    assert _names(listing, place) == sorted(images)
    assert (listing.skipped, listing.duplicates) == (len(others), 0)
    assert listing.table.schema == pa.schema([("image_id", pa.int64()), ("uri", pa.string()), ("version", pa.string())])
    for row in listing.table.to_pylist():
        entry = open_store(place).stat(row["uri"])
        assert entry and row["version"] == entry.version
        assert row["image_id"] == ImageRef(row["uri"], row["version"]).image_id
    assert list_input(f"{place}/in/").table == listing.table


def test_one_file_of_any_name(place: str) -> None:
    _put(place, "photo.dat", data=PNG)
    assert _names(list_input(f"{place}/photo.dat"), place) == ["photo.dat"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("in/*.jpg", ["in/a.jpg", "in/b.jpg"]),
        ("in/?.jpg", ["in/a.jpg", "in/b.jpg"]),
        ("in/[!a].jpg", ["in/b.jpg"]),
        ("in/**/*.jpg", ["in/a.jpg", "in/b.jpg", "in/d1/a.jpg", "in/d1/e/a.jpg", "in/d2/a.jpg"]),
        ("in/d*/a.jpg", ["in/d1/a.jpg", "in/d2/a.jpg"]),
        ("in/d1/**", ["in/d1/a.jpg", "in/d1/e/a.jpg", "in/d1/raw.xyz"]),
        ("in/*/raw*", ["in/d1/raw.xyz"]),
    ],
)
@pytest.mark.parametrize("place", ["local", "moto"], indirect=True)
def test_a_glob_takes_every_match(place: str, pattern: str, wanted: list[str]) -> None:
    _put(place, *("in/a.jpg", "in/b.jpg", "in/d1/a.jpg", "in/d1/e/a.jpg", "in/d1/raw.xyz", "in/d2/a.jpg", "a.jpg"))
    assert _names(list_input(f"{place}/{pattern}"), place) == wanted


def test_a_glob_lists_only_below_its_fixed_part(ceph_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_s3.put({"in/im1.jpg": b"x", "in/other.jpg": b"x", "out/x.jpg": b"x"})
    store, seen = open_store(ceph_s3.uri), []
    real = store.pages
    monkeypatch.setattr(store, "pages", lambda *args: (seen.append(args), real(*args))[1])
    assert _names(list_input(f"{ceph_s3.uri}/in/im*.jpg"), ceph_s3.uri) == ["in/im1.jpg"]
    assert seen == [(f"{ceph_s3.uri}/in", "im")]


def test_what_is_there_wins_over_what_it_could_mean(place: str) -> None:
    _put(place, "a[1].jpg", "a1.jpg", "[x]/y.jpg", "list.csv/z.jpg", "data.json/w.jpg")
    assert _names(list_input(f"{place}/a[1].jpg"), place) == ["a[1].jpg"]
    assert _names(list_input(f"{place}/a[1]*"), place) == ["a1.jpg"]
    assert _names(list_input(f"{place}/[x]"), place) == ["[x]/y.jpg"]
    assert _names(list_input(f"{place}/list.csv"), place) == ["list.csv/z.jpg"]
    assert _names(list_input(f"{place}/data.json"), place) == ["data.json/w.jpg"]


def test_relative_inputs_and_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "[odd] dir"
    _put(str(folder), "a.jpg", "in/b.jpg")
    monkeypatch.chdir(folder)
    for uri in (".", "./in/..", f"file://{str(folder).replace(' ', '%20')}"):
        assert _names(list_input(uri), str(folder)) == ["a.jpg", "in/b.jpg"]
    assert _names(list_input("*.jpg"), str(folder)) == ["a.jpg"]
    assert _names(list_input("in/../**/*.jpg"), str(folder)) == ["a.jpg", "in/b.jpg"]


def test_another_file_system() -> None:
    place = "mock:///listing"
    _put(place, "in/a.jpg", "in/b.txt")
    listing = list_input(f"{place}/in")
    assert (_names(listing, place), listing.skipped) == (["in/a.jpg"], 1)
    assert list_input(f"{place}/in/*.jpg").table == listing.table


def test_names_that_are_no_text_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    listing = list_input(str(tmp_path))
    assert (_names(listing, str(tmp_path)), listing.skipped) == (["a.jpg"], 1)
    (tmp_path / "a.jpg").unlink()
    said = r"matches only names that are no UTF-8 \(1 files\), which rows cannot hold; rename them$"
    with pytest.raises(UsageError, match=said):
        list_input(f"{tmp_path}/*.jpg")


# ---- manifests
ROWS = [
    {"uri": "../images/b.jpg", "split": "val", "weight": 2},
    {"uri": "a b.jpg", "split": "train", "weight": 1},
    {"uri": "../images/b.jpg", "split": "again", "weight": 3},
    {"uri": "gone.jpg", "split": "train", "weight": 4},
]


def _parquet(rows: list[dict[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def _csv(rows: list[dict[str, object]]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


def _jsonl(rows: list[dict[str, object]]) -> bytes:
    return "\n\n".join(json.dumps(row) for row in rows).encode()


def _txt(rows: list[dict[str, object]]) -> bytes:
    return ("# images\n\n" + "\r\n".join(str(row["uri"]) for row in rows)).encode()


WRITERS = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl, "txt": _txt}


@pytest.mark.parametrize("form", WRITERS)
def test_a_manifest(place: str, form: str) -> None:
    _put(place, "images/b.jpg", "lists/a b.jpg")
    _put(place, f"lists/m.{form}", data=WRITERS[form](ROWS))
    listing = list_input(f"{place}/lists/m.{form}")
    assert _names(listing, place) == ["images/b.jpg", "lists/a b.jpg", "lists/gone.jpg"]
    assert (listing.skipped, listing.duplicates) == (0, 1)
    versions = [
        entry.version if entry else "" for entry in open_store(place).stat_many(listing.table["uri"].to_pylist())
    ]
    assert listing.table["version"].to_pylist() == versions
    assert [bool(version) for version in versions] == [True, True, False]
    if form != "txt":
        assert listing.table["split"].to_pylist() == ["val", "train", "train"]
        assert listing.table["weight"].to_pylist() == ([2, 1, 4] if form != "csv" else ["2", "1", "4"])
    assert listing.table.column_names == ["image_id", "uri", "version"] + (["split", "weight"] if form != "txt" else [])


def test_a_manifest_may_name_places_of_any_kind(tmp_path: Path, moto_s3: S3Endpoint) -> None:
    moto_s3.put({"k/50%25 + ü.jpg": b"x"})
    _put(str(tmp_path), "x.dat")
    lines = [
        f"{moto_s3.uri}/k/50%25 + ü.jpg",
        f"{tmp_path}/../{tmp_path.name}/x.dat",
        "x.dat",
        f"file://{tmp_path}/x.dat",
    ]
    _put(moto_s3.uri, "m.txt", data="\n".join(lines[:2] + lines[3:]).encode())
    _put(str(tmp_path), "m.txt", data="\n".join(lines).encode())
    local, remote = list_input(f"{tmp_path}/m.txt"), list_input(f"{moto_s3.uri}/m.txt")
    assert local.table["uri"].to_pylist() == [f"{tmp_path}/x.dat", lines[0]]
    assert all(local.table["version"].to_pylist())
    assert local.table == remote.table
    assert (local.duplicates, remote.duplicates) == (2, 1)


def test_a_manifests_own_ids_are_kept_under_another_name(tmp_path: Path) -> None:
    _put(str(tmp_path), "m.csv", data=b"uri,image_id,input_image_id,version\na.jpg,7,8,v2\n")
    (row,) = list_input(f"{tmp_path}/m.csv").table.to_pylist()
    assert (row["input_input_image_id"], row["input_image_id"], row["input_version"]) == ("7", "8", "v2")
    assert row["image_id"] == ImageRef(f"{tmp_path}/a.jpg", "").image_id


def test_jsonl_rows_may_differ(tmp_path: Path) -> None:
    _put(str(tmp_path), "m.jsonl", data=b'{"uri": "a.jpg", "tags": ["x"]}\n{"score": 1.5, "uri": "b.jpg"}\n')
    table = list_input(f"{tmp_path}/m.jsonl").table
    assert table["tags"].to_pylist() == [["x"], None]
    assert table["score"].to_pylist() == [None, 1.5]


# ---- COCO
def _coco(images: object) -> bytes:
    return json.dumps({"images": images, "annotations": [], "categories": []}).encode()


def test_a_coco_json(place: str) -> None:
    images = [{"id": 2**40, "file_name": "val/a.jpg"}, {"id": 1, "file_name": "0.jpg"}, {"id": 5, "file_name": "0.jpg"}]
    _put(place, "set/c.json", data=_coco(images))
    _put(place, "set/val/a.jpg", "photos/val/a.jpg", "photos/0.jpg", data=b"pixels")
    beside, elsewhere = list_input(f"{place}/set/c.json"), list_input(f"{place}/set/c.json", root=f"{place}/photos/")
    assert _names(beside, place) == ["set/0.jpg", "set/val/a.jpg"]
    assert _names(elsewhere, place) == ["photos/0.jpg", "photos/val/a.jpg"]
    assert [bool(version) for version in beside.table["version"].to_pylist()] == [False, True]
    assert all(elsewhere.table["version"].to_pylist())
    for listing in (beside, elsewhere):
        assert listing.table["coco_id"].to_pylist() == [1, 2**40]
        assert listing.table.schema.field("coco_id").type == pa.int64()
        assert listing.duplicates == 1


# ---- what is wrong
@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", b"url,split\na.jpg,val\n", "needs one column 'uri'.*'url', 'split'"),
        ("m.csv", b"uri,a,a\nx,1,2\n", "no column twice"),
        ("m.csv", b"uri,a\nx,1\ny,2,3\n", "cannot be read: .*Expected 2 columns, got 3"),
        ("m.csv", b"", "cannot be read: Empty CSV"),
        ("m.csv", b"uri,a\nx,1\n,2\n", "row 2 has no 'uri'"),
        ("m.csv", b"uri\nx\0y\n", "NUL"),
        ("m.parquet", b"not parquet at all", "cannot be read"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n{oops\n', "line 2 is not valid JSON"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n["b.jpg"]\n', "line 2 is not like"),
        ("m.jsonl", b'{"url": "a.jpg"}\n', "line 1 is not like"),
        ("m.jsonl", b'{"uri": "a.jpg", "n": 1}\n{"uri": "b.jpg", "n": "x"}\n', "column 'n' mixes types"),
        ("m.jsonl", b'{"uri": "\\ud800.jpg"}\n', "Unicode|utf-8"),
        ("m.txt", b"\xff\xfe", "cannot be read: 'utf-8'.*; save it as UTF-8"),
        ("m.txt", b"# nothing\n\n", "has no images"),
        ("m.txt", b"s3://KEY:SECRET@bucket/a.jpg", "no keys in it|never from the URI"),
        ("c.json", b"[1, 2]", "no list 'images'"),
        ("c.json", b'{"images": 5}', "no list 'images'"),
        ("c.json", b'{"images": [', "not valid JSON"),
        ("c.json", _coco([]), "has no images"),
        ("c.json", _coco([{"id": 1}]), r"images\[0\] needs"),
        ("c.json", _coco([{"id": "one", "file_name": "a.jpg"}]), r"images\[0\] needs"),
        (
            "c.json",
            _coco([{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]),
            "the id 1 is that of 'a' and of 'b'",
        ),
    ],
)
def test_bad_lists(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    _put(str(tmp_path), name, data=data)
    with pytest.raises(UsageError, match=f"^input.uri: .*(?:{words})") as caught:
        list_input(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_list_of_what_is_no_image_is_refused(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    for text in ("Buy milk.\nCall the printer\n", "see plan.docx\n"):
        notes.write_text(text)
        with pytest.raises(
            UsageError, match=r"notes\.txt' names no file that can be seen, nor an image by its extension, e"
        ):
            list_input(str(notes))
    (tmp_path / "0017").write_bytes(b"x")
    for text in ("gone/0016\n0017\n", "gone.jpg\nBuy milk\n", "gone/0015\ngone/0016\n"):  # an image's key, maybe
        notes.write_text(text)
        assert list_input(str(notes)).table.num_rows == 2
    notes.write_text("/elsewhere/0018\n")
    with allow.confine([str(tmp_path)], {}):
        assert list_input(str(notes)).table["version"].to_pylist() == [""], "nobody has looked whether it is there"


def test_missing_and_empty_inputs(place: str) -> None:
    _put(place, "docs/notes.md", "docs/_SUCCESS")
    for uri in (f"{place}/none", f"{place}/none/", f"{place}/none.jpg", f"{place}/none.csv"):
        with pytest.raises(
            UsageError, match=r"^input.uri: .*none.* there is no such file, directory or prefix; wanted a"
        ):
            list_input(uri)
    with pytest.raises(UsageError, match=r"^input.uri: .*has no images \(2 files skipped\); taken are: .*jpg.*png"):
        list_input(f"{place}/docs")
    for uri in (f"{place}/none*", f"{place}/none/**"):
        with pytest.raises(UsageError, match="matches no file"):
            list_input(uri)
    with pytest.raises(UsageError, match="is no valid glob"):
        list_input(f"{place}/a**b")


def test_an_empty_place(place: str) -> None:
    with pytest.raises(UsageError, match=r"has no images \(0 files skipped\)"):
        list_input(place)


@pytest.mark.parametrize("uri", ["", "http://host/x", "s3://", "s3://KEY:SECRET@bucket/x"])
def test_no_input_at_all(uri: str) -> None:
    with pytest.raises(UsageError, match=r"^input.uri: ") as caught:
        list_input(uri)
    assert "SECRET" not in str(caught.value)


def test_root_is_for_coco_only(tmp_path: Path) -> None:
    _put(str(tmp_path), "in/a.jpg", "m.txt")
    for name in ("in", "in/a.jpg", "in/*", "m.txt"):
        with pytest.raises(UsageError, match=r"^input.root: "):
            list_input(f"{tmp_path}/{name}", root=str(tmp_path))
    _put(str(tmp_path), "c.json", data=_coco([{"id": 1, "file_name": "a.jpg"}]))
    with pytest.raises(UsageError, match=r"^input.root: "):
        list_input(f"{tmp_path}/c.json", root="s3://")


def test_a_missing_bucket(s3_endpoint: S3Endpoint) -> None:
    for uri in ("s3://no-such-bucket-here", "s3://no-such-bucket-here/a.jpg", "s3://no-such-bucket-here/*.jpg"):
        with pytest.raises(UsageError, match=r"^input.uri: s3://no-such-bucket-here.*: no such bucket$"):
            list_input(uri)


def test_wrong_keys(ceph_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_s3.put({"in/a.jpg": b"x", "m.txt": b"in/a.jpg"})
    set_variables({**ceph_s3.variables, "AWS_SECRET_ACCESS_KEY": "wrong-secret"}, monkeypatch)
    for name in ("", "/in", "/in/a.jpg", "/in/*", "/m.txt"):
        with pytest.raises(UsageError, match=r"^input.uri: .*SignatureDoesNotMatch: check the AWS variables") as caught:
            list_input(ceph_s3.uri + name)
        assert "wrong-secret" not in str(caught.value)


def test_a_server_that_is_away_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    set_variables({**keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, monkeypatch)
    with pytest.raises(RunError, match=r"^input.uri: .*cannot be reached.*later$"):
        list_input("s3://bucket/in")


def test_one_id_for_two_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(str(tmp_path), "a.jpg", "b.jpg")
    monkeypatch.setattr(listed, "image_ids", lambda names, versions: np.full(len(names), 7))
    with pytest.raises(RunError, match=r"a\.jpg' and '.*b\.jpg' have the same image_id, 7"):
        list_input(str(tmp_path))


def test_extensions_are_those_that_pillow_opens() -> None:
    from PIL import Image

    Image.init()
    known = {extension.removeprefix(".") for extension, form in Image.EXTENSION.items() if form in Image.OPEN}
    assert IMAGE_EXTENSIONS - known <= {"heic", "heif", "hif", "jif", "mpo"}  # a plug-in's, and other names of JPEG
    assert {"jpg", "png", "tif", "webp"} <= IMAGE_EXTENSIONS


def test_the_modules_load_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, m2f_batch.inputs.fetch, m2f_batch.inputs.listing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "PIL", "boto3", "botocore", "fsspec"} & set(loaded)
