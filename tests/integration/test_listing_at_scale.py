"""Listings that come in chunks, and many keys of a bucket by pages: the same answers as one by one, in few requests."""

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.s3_servers import S3Endpoint

from benchmarks.parts import listing as benchmark
from m2f_batch.errors import TransientError, UsageError
from m2f_batch.inputs import columns, manifests
from m2f_batch.inputs.columns import TEXT, first_of_each, taken, text_column
from m2f_batch.inputs.listing import Listing, list_input
from m2f_batch.inputs.manifests import READERS
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.s3 import pages as s3_pages
from m2f_batch.storage.s3.pages import sizes_and_etags
from m2f_batch.storage.s3.store import S3Store
from m2f_batch.storage.store import Entry, StoreUnavailable, Unreachable

pytest_plugins = ["support.s3_servers"]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columns, manifests):
        monkeypatch.setattr(module, "CHUNK", 3)


# ---- columns


def test_the_order_is_pythons_and_the_first_of_equal_texts_wins(small_chunks: None) -> None:
    draw = random.Random(0)
    letters = ["a", "B", "/", " ", "ü", "é", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "日", "\x01"]
    texts = ["".join(draw.choices(letters, k=draw.randrange(4))) for _ in range(3000)]
    rows = first_of_each(text_column(texts))
    first = {text: row for row, text in reversed([*enumerate(texts)])}
    assert rows.tolist() == [first[text] for text in sorted(first)]
    assert taken(text_column(texts), rows).to_pylist() == sorted(first)
    assert taken(text_column(texts), rows).type == pa.string()


def test_columns_without_rows() -> None:
    assert first_of_each(text_column([])).tolist() == []
    assert taken(text_column([]), np.zeros(0, np.int64)).to_pylist() == []
    assert text_column([]).type == TEXT


def test_half_of_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        text_column(["a", "\ud800"])


# ---- manifests in chunks


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        comma = "," if path.suffix == ".csv" else "\t"
        lines = [comma.join(rows[0]), *(comma.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(str(row["uri"]) if path.suffix == ".txt" else json.dumps(row) for row in rows))


@pytest.mark.parametrize("form", READERS)
def test_a_manifest_of_many_chunks(tmp_path: Path, small_chunks: None, form: str) -> None:
    numbers = [number * 7 % 50 for number in range(100)]  # each twice, 50 rows apart
    rows: list[dict[str, object]] = [{"uri": f"{number:02d}.jpg", "row": row} for row, number in enumerate(numbers)]
    _write(tmp_path / f"m.{form}", rows)
    for number in range(0, 50, 2):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"x" * number)
    listing = list_input(f"{tmp_path}/m.{form}")
    assert listing.duplicates == 50
    assert listing.table["uri"].to_pylist() == [f"{tmp_path}/{number:02d}.jpg" for number in range(50)]
    for number, row in enumerate(listing.table.to_pylist()):
        entry = open_store(row["uri"]).stat(row["uri"])
        assert row["version"] == (entry.version if entry else "")
        assert bool(entry) == (number % 2 == 0)
        assert row["image_id"] == ImageRef(row["uri"], row["version"]).image_id
        assert form == "txt" or str(row["row"]) == str(numbers.index(number))


def test_a_row_without_uri_is_found_in_any_chunk(tmp_path: Path, small_chunks: None) -> None:
    pq.write_table(pa.table({"uri": ["a", "b", "c", "d", None, "f", ""]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=r"^input.uri: '.*m.parquet': row 5 has no 'uri'; give one or remove the row$"):
        list_input(f"{tmp_path}/m.parquet")


def _jsonl(rows: list[dict[str, object]]) -> pa.Table:
    return READERS["jsonl"](b"\n".join(json.dumps(row).encode() for row in rows))


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4.5, 5],
        [None, None, None, "x", None],
        ["x", "y", "z", None, None, None, None],
        [{"a": 1}, {}, {}, {"b": "x"}, {"a": None}],
        [[1], [2], None, [None], [2.5]],
        [None, [], [], [[1]], []],
        [None, None, None, None],
        [True, False, None, None, True],
    ],
)
def test_jsonl_columns_have_the_type_of_all_their_rows(small_chunks: None, values: list[object]) -> None:
    table = _jsonl([*({"uri": "a", "v": value} for value in values), {"uri": "b", "late": 1}])
    assert table.column_names == ["uri", "v", "late"]
    assert table["v"].combine_chunks() == pa.array([*values, None])
    assert table["late"].to_pylist() == [None] * len(values) + [1]


@pytest.mark.parametrize(
    "values", [[1, 2, 3, "x"], [1, 2, 3, True], [1, 2, 3, 2**63], [1.5, 1, 1, 2**62 + 1], [[1], None, None, ["x"]]]
)
def test_jsonl_columns_of_mixed_types_are_refused_across_chunks(small_chunks: None, values: list[object]) -> None:
    with pytest.raises(UsageError, match=r"^column 'v' mixes types, or holds what no column can: "):
        _jsonl([{"uri": "a", "v": value} for value in values])


def test_lines_of_text_end_at_newlines_only(small_chunks: None) -> None:
    data = "\ufeff# all\r\na b.jpg \r\n\n\u2028c.jpg\nd\x0be.jpg\rf.jpg\ng.jpg".encode()
    wanted = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    assert READERS["txt"](data)["uri"].to_pylist() == [line for line in wanted if line and line[0] != "#"]


def test_a_column_that_is_no_text_is_a_users_mistake(tmp_path: Path) -> None:
    for column in (pa.array([[1], [2]]), pa.array([b"\xff", b"x"])):
        pq.write_table(pa.table({"uri": column}), tmp_path / "m.parquet")
        with pytest.raises(UsageError, match=r"^input.uri: '.*m.parquet' cannot be read: "):
            list_input(f"{tmp_path}/m.parquet")


def test_a_dictionary_of_uris_is_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": pa.array(["b.jpg", "a.jpg"]).dictionary_encode()}), tmp_path / "m.parquet")
    assert list_input(f"{tmp_path}/m.parquet").table["uri"].to_pylist() == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


def test_a_manifests_own_column_file_is_kept_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,file\na.jpg,scan-1\n")
    (row,) = list_input(f"{tmp_path}/m.csv").table.to_pylist()
    assert row["input_file"] == "scan-1"
    assert "file" not in row


def test_a_folder_of_many_chunks(tmp_path: Path, small_chunks: None) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}.{'jpg' if number % 3 else 'md'}").write_bytes(b"x")
    listing = list_input(str(tmp_path))
    assert listing.skipped == 7
    assert listing.table["uri"].to_pylist() == sorted(str(path) for path in tmp_path.glob("*.jpg"))


# ---- keys by pages: a bucket of the test's own


class Bucket:
    """List requests as S3 answers them; ``asked`` holds their options."""

    def __init__(self, keys: list[str], page_size: int = 10) -> None:
        self.keys, self.page_size, self.asked = sorted(keys), page_size, list[dict[str, str]]()

    def __call__(self, prefix: str, StartAfter: str = "") -> dict[str, object]:
        self.asked.append({"prefix": prefix, "after": StartAfter})
        left = [key for key in self.keys if key.startswith(prefix) and key > StartAfter]
        page = [{"Key": key, "Size": len(key), "ETag": f'"{key}"'} for key in left[: self.page_size]]
        return {"Contents": page, "IsTruncated": len(left) > self.page_size}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PAYS": 3, "SKIPPED": 6, "STRETCH": 40}.items():
        monkeypatch.setattr(s3_pages, name, value)
    monkeypatch.setattr(S3Store, "page_size", 10)


def _told(bucket: Bucket, wanted: list[str]) -> s3_pages.Known:
    known = sizes_and_etags(bucket, sorted(set(wanted)))
    assert known == {key: (len(key), key) if key in bucket.keys else None for key in known}
    return known


def test_dense_keys_cost_one_request_a_page(small_pages: None) -> None:
    keys = [f"a/{number:04d}.jpg" for number in range(400)]
    bucket = Bucket(keys)
    assert len(_told(bucket, keys)) == 400
    assert len(bucket.asked) == 40


def test_sparse_keys_are_left_out_soon(small_pages: None) -> None:
    keys = [f"a/{number:05d}.jpg" for number in range(10_000)]
    bucket = Bucket(keys)
    known = _told(bucket, keys[::100])
    assert len(bucket.asked) <= 2 * -(-100 // 7) and len(known) <= len(bucket.asked)


def test_dense_places_in_a_sparse_list_are_found_again(small_pages: None) -> None:
    keys = [f"a/{number:05d}.jpg" for number in range(2000)]
    bucket = Bucket(keys)
    wanted = keys[:1000:50] + keys[1000:1400]
    assert len(_told(bucket, wanted)) >= 390
    assert len(bucket.asked) <= 40 + 12


def test_keys_that_are_not_there_cost_no_request_each(small_pages: None) -> None:
    bucket = Bucket(["b/1", "z"])
    wanted = [f"{folder}/{number}" for folder in "ab" for number in range(20)]
    assert len(_told(bucket, wanted)) == 40
    assert len(bucket.asked) == 1


def test_few_keys_are_not_listed(small_pages: None) -> None:
    bucket = Bucket(["a", "b"])
    assert _told(bucket, ["a", "b"]) == {}
    assert bucket.asked == []


def test_a_key_with_a_page_of_others_right_before_it(small_pages: None) -> None:
    bucket = Bucket([*(f"a{number:03d}" for number in range(50)), "ab", "ac", "ad", "ae"])
    _told(bucket, ["aa", "ab", "ac", "ad", "ae", "b", "c"])
    assert len(bucket.asked) <= 2


def test_random_buckets_and_lists(small_pages: None) -> None:
    draw = random.Random(1)
    for _ in range(300):
        keys = {
            "".join(draw.choices("ab/é\U00010000\uffff", k=draw.randrange(1, 6))) for _ in range(draw.randrange(200))
        }
        others = {"".join(draw.choices("ab/é", k=draw.randrange(1, 6))) for _ in range(40)}
        wanted = [*draw.sample(sorted(keys), min(len(keys), draw.randrange(1, 100))), *others]
        _told(Bucket([*keys], draw.randrange(1, 30)), wanted)


def test_a_bucket_without_order_tells_nothing(small_pages: None) -> None:
    bucket = Bucket([f"{number}" for number in range(100, 200)])
    bucket.keys.reverse()
    assert sizes_and_etags(bucket, sorted(bucket.keys)) == {}


def test_a_refused_list_is_not_asked_for_again(small_pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_pages, "THREADS", 1)
    asked = []

    def refuse(prefix: str, **_: str) -> None:
        asked.append(prefix)
        raise StoreUnavailable("no")

    assert sizes_and_etags(refuse, [f"{number:04d}" for number in range(400)]) == {}
    assert len(asked) == 1
    for fault in (Unreachable, TransientError):

        def fail(prefix: str, fault: type[Exception] = fault, **_: str) -> None:
            raise fault("away")

        with pytest.raises(fault):
            sizes_and_etags(fail, [f"{number:04d}" for number in range(400)])


# ---- and on servers


@pytest.fixture
def requests(s3_endpoint: S3Endpoint) -> Iterator[Counter[str]]:
    """How often each operation was asked of the opened store."""
    counts: Counter[str] = Counter()
    client = open_store(s3_endpoint.uri)._client
    client.meta.events.register("request-created.s3", lambda operation_name, **_: counts.update([operation_name]))
    return counts


def _same_as_one_by_one(place: str, wanted: list[str]) -> list[Entry | None]:
    store = open_store(place)
    found = [*store.stat_many(wanted)]
    assert found == [store.stat(uri) for uri in wanted]
    return found


ODD = [
    "a b",
    "100%25",
    "p+q",
    "h#s",
    "q?x=1",
    "a&b<c>",
    "[x]*",
    "ü",
    "u\u0308",
    "日本",
    "\U0001f600",
    "~",
    "'\"",
    "a//b",
]


def test_pages_tell_what_looking_at_each_tells(
    s3_endpoint: S3Endpoint, small_pages: None, requests: Counter[str]
) -> None:
    keys = [f"in/cam/{number:03d}.jpg" for number in range(60)] + [f"in/odd/{name}.jpg" for name in ODD]
    s3_endpoint.put({key: key.encode() for key in keys})
    place = s3_endpoint.uri
    dense = [f"{place}/{key}" for key in keys] + [f"{place}/in/cam/{number:03d}.png" for number in range(60)]
    sparse = [f"{place}/in/cam/{number:03d}.jpg" for number in range(0, 60, 20)] + [
        place,
        f"{place}/in",
        f"{place}/in/",
    ]
    random.Random(0).shuffle(dense)
    store = open_store(place)
    found = [*store.stat_many(dense)]
    assert requests["HeadObject"] <= 4
    assert requests["ListObjectsV2"] <= 16
    assert found == [store.stat(uri) for uri in dense]
    assert sum(entry is not None for entry in found) == len(keys)
    _same_as_one_by_one(place, [*sparse, dense[0], dense[0]])


def test_an_uploads_version_is_the_same_in_a_page(s3_endpoint: S3Endpoint, small_pages: None) -> None:
    client, place = s3_endpoint.client(), s3_endpoint.uri
    client.upload_fileobj(io.BytesIO(b"x" * (9 << 20)), s3_endpoint.bucket, "in/parts.bin")
    s3_endpoint.put({"in/a": b"", "in/folder/": b"", "in/z": b"x"})
    wanted = [f"{place}/in/{name}" for name in ("a", "parts.bin", "folder/", "folder", "z")]
    found = _same_as_one_by_one(place, wanted)
    assert found[1] and found[1].version.endswith("-2")
    assert found[2] and found[3] is None


def test_names_that_lists_may_change_are_looked_at(ceph_s3: S3Endpoint, small_pages: None) -> None:
    keys = [f"in/{char}.jpg" for char in "\n\t\x01\x7f\u2028\u3000\u200b"]
    ceph_s3.put(dict.fromkeys(keys, b"x"))
    found = _same_as_one_by_one(ceph_s3.uri, [f"{ceph_s3.uri}/{key}" for key in keys])
    assert all(found)


def test_keys_that_may_not_list(ceph_s3: S3Endpoint, small_pages: None) -> None:
    ceph_s3.put({f"in/{number:03d}.jpg": b"x" for number in range(50)})
    resource = f"arn:aws:s3:::{ceph_s3.bucket}"
    policy = f'"Effect": "Deny", "Principal": "*", "Action": "s3:ListBucket", "Resource": "{resource}"'
    ceph_s3.client().put_bucket_policy(
        Bucket=ceph_s3.bucket, Policy=f'{{"Version": "2012-10-17", "Statement": [{{{policy}}}]}}'
    )
    with pytest.raises(StoreUnavailable, match="access denied"):
        [*open_store(ceph_s3.uri).list(f"{ceph_s3.uri}/in")]
    assert all(_same_as_one_by_one(ceph_s3.uri, [f"{ceph_s3.uri}/in/{number:03d}.jpg" for number in range(50)]))


def test_a_prefix_of_folders_in_folders(
    s3_endpoint: S3Endpoint, small_pages: None, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_pages, "THREADS", 6)
    keys = [f"in/2026/11/{day:02d}/cam-{cam}/{number}.jpg" for day in (1, 2, 3) for cam in "ab" for number in range(12)]
    keys += [f"in/2026/{number}.jpg" for number in range(5)] + ["in/2026/11/04/x/y.jpg", "in/2026/11//z.jpg"]
    s3_endpoint.put(dict.fromkeys(keys, b"x"))
    listing: Listing = list_input(f"{s3_endpoint.uri}/in")
    assert listing.table["uri"].to_pylist() == sorted(f"{s3_endpoint.uri}/{key}" for key in keys)
    assert requests["ListObjectsV2"] <= 27  # 18 of them for 6 folders of two pages and the 6 folders above


# ---- the benchmark, in small


def test_the_benchmark_measures_entries_and_manifests(tmp_path: Path) -> None:
    for form in benchmark.FORMS:
        benchmark.write_manifest(tmp_path / f"m.{form}", 100)
        table = READERS[form]((tmp_path / f"m.{form}").read_bytes())
        assert sorted(table["uri"].to_pylist()) == [benchmark.uri_of(number) for number in range(100)]
    assert benchmark.line("entries", "entries", 100, 100)["images"] == "100"
    assert benchmark.line("csv", "manifest", str(tmp_path / "m.csv"), 100)["images"] == "100"
    assert len(benchmark.files([20])) == 2


def test_the_benchmark_fills_and_lists_a_bucket(moto_s3: S3Endpoint) -> None:
    lines = benchmark.on_s3(moto_s3.uri, 60)
    assert [line["images"] for line in lines] == ["60", "60", "6", "2", "1"] * 2
    assert lines[0]["requests"] == "2 ListObjectsV2"
