"""The frozen schema, the row, and the id of an image."""

import hashlib
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hand_made import Picture, box_mask

from m2f_batch.errors import DecodeError, ImageError
from m2f_batch.records import SCHEMA, ImageRef, error_row, ok_row, segment_of, table_of

# the contract's table, written out once more
CONTRACT = {
    "image_id": ("int64", False),
    "uri": ("string", False),
    "version": ("string", False),
    "height": ("int32", True),
    "width": ("int32", True),
    "status": ("string", False),
    "error": ("struct<stage: string, type: string, message: string>", True),
    "segments": (
        "list<element: struct<id: int32, category_id: int32, category: string, score: float, area: int64, "
        "bbox: fixed_size_list<element: float>[4], counts: string>>",
        True,
    ),
}


def test_the_schema_is_the_contracts() -> None:
    assert {field.name: (str(field.type), field.nullable) for field in SCHEMA} == CONTRACT
    assert SCHEMA.names == list(CONTRACT)


def rows() -> list[dict]:
    size = (12, 16)
    found = Picture("/p/é 日.jpg", size, [(0, 0.75, box_mask(size, 1, 2, 3, 4)), (2, 0.5, box_mask(size, 6, 0, 2, 16))])
    return [
        found.row(("cat", "dog", "sky")),
        ok_row(ImageRef("/p/empty.jpg", "v"), (1, 2), []),
        error_row(ImageRef("s3://b/k%20.jpg", ""), DecodeError("Truncated", "no\nend", size_hw=(5, 6))),
        error_row(ImageRef("/p/gone.jpg", "v"), ImageError("fetch", "NotFound", "gone")),
    ]


def test_parquet_gives_back_the_rows_and_the_schema() -> None:
    sink = io.BytesIO()
    pq.write_table(table_of(rows()), sink, compression="zstd")
    read = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert (
        read.schema.equals(SCHEMA, check_metadata=False) and read.schema.metadata[b"m2f_batch.schema_version"] == b"1"
    )
    assert read.to_pylist() == rows()
    assert table_of([]).schema.equals(SCHEMA)


def test_values_of_rows() -> None:
    found, empty, broken, gone = rows()
    assert (found["status"], found["error"], found["height"], found["width"]) == ("ok", None, 12, 16)
    first = found["segments"][0]
    assert {key: first[key] for key in first if key != "counts"} == {
        "id": 1, "category_id": 0, "category": "cat", "score": 0.75, "area": 12, "bbox": [2.0, 1.0, 4.0, 3.0],
    }  # fmt: skip
    assert (empty["status"], empty["segments"]) == ("ok", [])
    assert broken["error"] == {"stage": "decode", "type": "Truncated", "message": "no\nend"}
    assert (broken["status"], broken["height"], broken["width"], broken["segments"]) == ("error", 5, 6, [])
    assert (gone["height"], gone["width"]) == (None, None)


def test_a_segment_comes_back_with_its_mask() -> None:
    entry = rows()[0]["segments"][0]
    segment = segment_of(entry, (12, 16))
    assert np.array_equal(segment.mask(), box_mask((12, 16), 1, 2, 3, 4)) and segment.mask().dtype == bool
    assert segment.entry() == entry


def test_a_null_where_none_may_be_is_refused() -> None:
    row = rows()[0] | {"uri": None}
    sink = io.BytesIO()
    with pytest.raises((pa.ArrowException, OSError)):
        pq.write_table(table_of([row]), sink)


@pytest.mark.parametrize(
    ("uri", "version"), [("/a/b.jpg", "1-2"), ("s3://b/é%20 x.jpg", "etag-3"), ("/x", ""), ("", ""), ("a\0b", "c")]
)
def test_image_id_is_the_first_63_bits_of_the_hash(uri: str, version: str) -> None:
    digest = hashlib.sha256(uri.encode() + b"\0" + version.encode()).hexdigest()
    assert ImageRef(uri, version).image_id == int(digest[:16], 16) % 2**63


def test_top_bit_is_cleared() -> None:
    uris = [f"/{n}.jpg" for n in range(64)]
    highs = [int(hashlib.sha256(f"{uri}\0v".encode()).hexdigest()[:16], 16) >> 63 for uri in uris]
    assert 0 < sum(highs) < 64 and all(0 <= ImageRef(uri, "v").image_id < 2**63 for uri in uris)


def test_image_errors_survive_a_process_border() -> None:
    for error in (ImageError("fetch", "Denied", "m", index=3), DecodeError("Bad", "m", size_hw=(1, 2))):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error) and copy.size_hw == error.size_hw
