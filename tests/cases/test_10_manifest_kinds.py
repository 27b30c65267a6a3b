"""Case 10: lists of images as tools write them are read, and what is no list or image is refused before Ray starts."""

import bz2
import gzip
import json
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL

from m2f_batch.cli import main
from m2f_batch.errors import UsageError
from m2f_batch.inputs import manifests
from m2f_batch.inputs.listing import list_input

PHOTOS = ["img0.jpg", "img1.jpg", "img2.jpg", "img3.jpg"]


@pytest.fixture
def case(shared_cases: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "case"
    shutil.copytree(shared_cases / "10-manifest-kinds", folder)
    folder.chmod(0o755)
    return folder


def names(place: Path) -> list[str]:
    return [Path(uri).name for uri in list_input(str(place)).table["uri"].to_pylist()]


def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of an INPUT that it refuses, and that nothing was written."""
    output = place.parent / "run"
    assert main(["segment", str(place), str(output), "--model", str(DEMO_MODEL)]) == 2
    assert not output.exists()
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err.removeprefix("m2f-batch segment: ").rstrip("\n")


@pytest.mark.parametrize(
    "name", ["tab.tsv", "list.csv.gz", "list.jsonl.gz", "bom_crlf.csv", "quoted.csv", "nested.jsonl", "dict.parquet"]
)
def test_manifests_by_nature_are_read(case: Path, name: str) -> None:
    listing = list_input(str(case / name))
    assert listing.table["uri"].to_pylist() == [f"{case}/{photo}" for photo in PHOTOS]
    assert all(listing.table["version"].to_pylist())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: _zstd(data)])
@pytest.mark.parametrize("name", ["list.csv", "list.ndjson", "list.txt", "coco.json", "list.parquet"])
def test_packed_lists_by_their_bytes(tmp_path: Path, pack, name: str) -> None:
    data = {
        "list.csv": b"uri\na.jpg\n",
        "list.ndjson": b'{"uri": "a.jpg"}\n',
        "list.txt": b"a.jpg",
        "coco.json": json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}).encode(),
        "list.parquet": _parquet({"uri": ["a.jpg"]}),
    }[name]
    (tmp_path / name).write_bytes(pack(data))  # its name does not say so
    assert names(tmp_path / name) == ["a.jpg"]


def _zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def _parquet(columns: dict[str, list]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_what_unpacks_to_far_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_UNPACKED", 1000)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a" * 1001))
    with pytest.raises(UsageError, match=r"bomb.txt.gz': unpacks to more than 1,000 bytes"):
        list_input(str(tmp_path / "bomb.txt.gz"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"uri\na.jpg\n")[:-9])
    with pytest.raises(UsageError, match=r"cut.csv.gz': cannot be unpacked: "):
        list_input(str(tmp_path / "cut.csv.gz"))


def test_kept_columns_stay_texts(case: Path) -> None:
    assert list_input(str(case / "bom_crlf.csv")).table["patient"].to_pylist() == ["000", "001", "002", "003"]
    (case / "more.csv").write_text("uri,zip,day,flag,country,n\nimg0.jpg,007,2024-01-02,true,NA,\n")
    (row,) = list_input(str(case / "more.csv")).table.drop_columns(["image_id", "uri", "version"]).to_pylist()
    assert row == {"zip": "007", "day": "2024-01-02", "flag": "true", "country": "NA", "n": ""}
    (case / "more.tsv").write_text("uri\tzip\nimg0.jpg\t1e5\n")
    assert list_input(str(case / "more.tsv")).table["zip"].to_pylist() == ["1e5"]


def test_json_keeps_its_types(tmp_path: Path) -> None:
    rows = [{"uri": "a.jpg", "n": 2**60 + 1, "t": "007", "x": 1.5}, {"uri": "b.jpg", "n": 1, "t": "1", "x": 2.0}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = list_input(str(tmp_path / "m.jsonl")).table
    assert table.select(["n", "t", "x"]).to_pylist() == [{k: row[k] for k in "ntx"} for row in rows]
    assert table.schema.field("n").type == pa.int64()


def test_a_folder_of_parquet_as_spark_writes_it(case: Path) -> None:
    folder = case / "spark.parquet"
    for name, columns in {
        "part-00000.parquet": {"uri": ["img0.jpg"], "n": [1]},
        "day=007/part-00001.snappy.parquet": {"uri": ["img1.jpg"]},
        "day=__HIVE_DEFAULT_PARTITION__/part-00002.parquet": {"uri": ["img2.jpg"]},
        "_delta_log/0.checkpoint.parquet": {"other": [1]},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_parquet(columns))
    for name in ("_SUCCESS", "_metadata", ".part-00000.parquet.crc"):
        (folder / name).write_bytes(b"x")
    listing = list_input(str(folder))
    assert listing.table.drop_columns(["image_id", "version"]).to_pylist() == [
        {"uri": f"{case}/img0.jpg", "n": 1, "day": None},
        {"uri": f"{case}/img1.jpg", "n": None, "day": "007"},
        {"uri": f"{case}/img2.jpg", "n": None, "day": None},
    ]
    assert (listing.skipped, all(listing.table["version"].to_pylist())) == (4, True)
    (folder / "photo.jpg").write_bytes(b"x")
    assert names(folder) == ["photo.jpg"], "a folder with images is one of images"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shard-000000.tar", "is a tar archive: unpack it, and give the folder"),
        ("photos.zip", "is an archive: unpack it, and give the folder"),
        ("shard.tar.gz", "is a tar archive: unpack it, and give the folder"),
        ("photo.jpg.gz", "is a compressed file: of those only manifests are read (list.csv.gz); unpack it"),
        ("sheet.xlsx", "is a spreadsheet: save it as .csv with a column 'uri'"),
        ("paper.pdf", "is a document: write its pages as images, and give their folder"),
        ("film.mp4", "is a video: write its frames as images, and give their folder"),
        ("array.npy", "is a file of arrays: write its arrays as images, and give their folder"),
        ("notes.md", "is a text: a list of images is a .txt, one name a line"),
        ("what.dat", "is neither an image nor a list of images, by its name and its bytes: give another file"),
        ("LICENSE", "is neither an image nor a list of images, by its name and its bytes: give another file"),
    ],
)
def test_what_is_neither_is_refused_by_its_name(
    tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"some bytes")
    said = refused(tmp_path / name, capsys)
    wanted = "; wanted a directory, an s3:// prefix, a glob, one image, a manifest (.parquet, .csv, .tsv, .jsonl, .txt"
    assert said.startswith(f"input.uri: '{tmp_path}/{name}' {words}{wanted}")


def test_what_has_another_name_is_refused_by_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with tarfile.open(tmp_path / "shard.data", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
    with zipfile.ZipFile(tmp_path / "no_extension", "w") as archive:
        archive.write(tmp_path / "a.jpg", "a.jpg")
    shutil.copy(tmp_path / "no_extension", tmp_path / "sheet.csv")
    (tmp_path / "table").write_bytes(_parquet({"uri": ["a.jpg"]}))
    assert "'" + str(tmp_path) + "/shard.data' is a tar archive: unpack it" in refused(tmp_path / "shard.data", capsys)
    assert "no_extension' is a zip archive" in refused(tmp_path / "no_extension", capsys)
    said = refused(tmp_path / "sheet.csv", capsys)
    assert "sheet.csv': is a zip archive (or a spreadsheet or document, which are such), whatever its name says" in said
    assert "is Parquet: give its name the extension .parquet" in refused(tmp_path / "table", capsys)


def test_an_image_of_another_name_is_one(case: Path) -> None:
    for name in ("scan", "img0.dat", "img0.jpg_original"):
        shutil.copy(case / "img0.jpg", case / name)
        assert names(case / name) == [name]


def test_a_glob_of_no_images(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(case / "*.csv", capsys)
    assert f"'{case}/*.csv' matches no image, but '{case}/bom_crlf.csv' and the like, a manifest: give one" in said
    assert names(case / "*m*0*") == ["img0.jpg"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("array.json", "is no COCO JSON: it has no list 'images'; a list of rows is read as .jsonl: one object with a"),
        ("semicolon.csv", "it has ['uri;patient']; a .csv has commas between its columns, a .tsv tabs"),
        ("utf16.csv", ": is UTF-16; save it as UTF-8"),
        ("null.parquet", ": row 2 has no 'uri'; give one or remove the row"),
        ("s3a.txt", ": row 1: 's3a://bucket/a.jpg': s3a://...: no scheme of files that can be opened; write s3://"),
        ("presigned.txt", ": row 2: 'https://bucket.s3.amazonaws.com/a.jpg?...': a URI holds a signature or a key"),
    ],
)
def test_what_is_wrong_with_a_list(case: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(case / name, capsys)
    assert said.startswith(f"input.uri: '{case}/{name}'") and words in said
    assert "000000000000" not in said


def test_lines_of_json_called_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text('{"uri": "a.jpg"}\n{"uri": "b.jpg"}\n')
    assert refused(tmp_path / "rows.json", capsys).endswith("read as .jsonl: one object with a 'uri' a line")


def test_comments_are_counted_and_said(case: Path) -> None:
    listing = list_input(str(case / "hash.txt"))
    assert names(case / "hash.txt") == ["img0.jpg", "img1.jpg"]
    assert listing.notes == (
        "lines taken for comments, since they begin with '#': 2; a file of such a name is written ./#name",
    )
    (case / "hash.txt").write_text("./#1 front.jpg\n")
    assert names(case / "hash.txt") == ["#1 front.jpg"]
    assert list_input(str(case / "hash.txt")).notes == ()


def test_lines_that_end_as_on_an_old_mac(case: Path) -> None:
    assert names(case / "cr.txt") == ["img0.jpg", "img1.jpg", "img2.jpg"]


COLUMNS = "needs one column 'uri', and no column twice; it has "


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.csv", b"URI,id\na.jpg,1\n", COLUMNS + "['URI', 'id']; call 'URI' 'uri'"),
        ("a.csv", b"id,File_Name\n1,a.jpg\n", COLUMNS + "['id', 'File_Name']; call 'File_Name' 'uri'"),
        ("a.csv", b"name,image_path\nx,a.jpg\n", COLUMNS + "['name', 'image_path']; call 'image_path' 'uri'"),
        ("a.csv", b"uri \na.jpg\n", COLUMNS + "['uri ']; call 'uri ' 'uri'"),
        ("a.csv", b"a.jpg,1\nb.jpg,2\n", COLUMNS + "['a.jpg', '1']; its first line must be the names of its columns"),
        ("a.csv", b"x,y\n1,2\n", COLUMNS + "['x', 'y']"),
        ("a.csv", b"uri,uri\na.jpg,a.jpg\n", COLUMNS + "'uri' twice, of ['uri', 'uri']"),
        ("a.jsonl", b'{"path": "a.jpg"}\n', "line 1 is not like {\"uri\": \"a.jpg\", ...}; call 'path' 'uri'"),
        ("a.csv", b"PAR1....PAR1", "is Parquet, whatever its name says: give its name the extension .parquet"),
    ],
)
def test_what_may_be_meant_by_a_list_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert refused(tmp_path / name, capsys) == f"input.uri: '{tmp_path / name}': {told}"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (
            "a.csv",
            "uri\n\u00fc.jpg\n",
            "cannot be read: In CSV column #0: CSV conversion error to string: invalid UTF8 data",
        ),
        (
            "a.txt",
            "\u00fc.jpg\n",
            "cannot be read: 'utf-8' codec can't decode byte 0xfc in position 0: invalid start byte",
        ),
    ],
)
def test_lists_in_another_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: str, told: str
) -> None:
    (tmp_path / name).write_bytes(data.encode("latin-1"))
    assert refused(tmp_path / name, capsys) == f"input.uri: '{tmp_path / name}' {told}; save it as UTF-8"


@pytest.mark.parametrize(("name", "data"), [("a.csv", b"uri,id\n"), ("a.txt", b"\n"), ("a.json", b'{"images": []}')])
def test_lists_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert refused(tmp_path / name, capsys) == f"input.uri: '{tmp_path / name}' has no images: it names none"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3:/bucket/photos", " (a URI begins with s3://)"),
        ("file:photos", " (a URI begins with file://)"),
        ('"TMP/photos"', " (there is 'TMP/photos')"),
        ("TMP/photos\n", " (there is 'TMP/photos')"),
        ("$HOME/photos", " ('~' is put in, '$NAME' is not)"),
        ("TMP/other", ""),
        ("a:b", ""),
    ],
)
def test_what_may_be_meant_by_a_place_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, told: str
) -> None:
    (tmp_path / "photos").mkdir()
    uri, told = uri.replace("TMP", str(tmp_path)), told.replace("TMP", str(tmp_path))
    assert main(["segment", uri, str(tmp_path / "run"), "--model", str(DEMO_MODEL)]) == 2
    said = capsys.readouterr().err
    assert f"input.uri: {uri!r}: there is no such file, directory or prefix{told}; wanted a directory, " in said
