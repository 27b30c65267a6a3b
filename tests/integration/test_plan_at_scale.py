"""Plans over more text than pa.string() can hold in one array: every join of them, in little memory."""

import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.protocol import ids, listing_of

from m2f_batch.inputs import columns
from m2f_batch.inputs.columns import picked, picked_apart, shared
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.plan import FILE, UNIT_SCHEMA, new_plan, next_plan, numbered, pending

ROWS, LENGTH = 300, 8 << 20  # 2.3 GiB of text, in one buffer of 8 MiB
NONE = np.array([], np.int64)


def chunked(texts: list[str], rng: random.Random) -> pa.ChunkedArray:
    """Cut anywhere, with empty chunks too."""
    cuts = sorted(rng.randrange(len(texts) + 1) for _ in range(rng.randrange(6)))
    bounds = zip([0, *cuts], [*cuts, len(texts)], strict=True)
    return pa.chunked_array([pa.array(texts[first:last], pa.string()) for first, last in bounds], pa.string())


def test_picked_rows_are_those_that_were_asked_for() -> None:
    rng = random.Random(0)
    for _ in range(300):
        texts = [f"{rng.randrange(99)}" for _ in range(rng.randrange(30))]
        rows = [rng.randrange(len(texts)) for _ in range(rng.randrange(40))] if texts else []
        rows = sorted(rows) if rng.random() < 0.5 else rows
        found = picked(chunked(texts, rng), np.array(rows, np.int64))
        assert (found.type, found.to_pylist()) == (pa.string(), [texts[row] for row in rows])


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.int64(), pa.list_(pa.int64())])
def test_columns_that_are_kept_stay_in_chunks_of_few_rows(kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 2)
    values = [None if at % 4 == 3 else at for at in range(9)]
    column = pa.chunked_array([[], values[:5], values[5:]], pa.int64())
    if pa.types.is_list(kind):
        column = pa.chunked_array([[[value] for value in values]], kind)
    elif kind != pa.int64():
        column = column.cast(pa.string()).cast(kind)
    rows = np.array([8, 0, 3, 4, 7], np.int64)
    found = picked_apart(column, rows)
    assert (found.type, found.to_pylist()) == (kind, [column[int(row)].as_py() for row in rows])
    assert kind not in (pa.string(), pa.binary()) or [len(chunk) for chunk in found.chunks] == [2, 2, 1]


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_texts_that_are_in_both_columns_are_counted(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", block)
    rng, letters = random.Random(block), ["a", "b", "\uffff", "\U00010000", "é"]
    for _ in range(200):
        some, others = (
            {"".join(rng.choices(letters, k=rng.randrange(4))) for _ in range(rng.randrange(40))} for _ in range(2)
        )
        assert shared(chunked(sorted(some), rng), chunked(sorted(others), rng)) == len(some & others)


def test_names_are_numbered_as_they_first_appear() -> None:
    rng = random.Random(0)
    for _ in range(300):
        names = [f"{rng.randrange(5)}" for _ in range(rng.randrange(20))]
        texts = chunked(names, rng)
        for column in (
            texts,
            texts.dictionary_encode(),
            pa.chunked_array([texts.dictionary_encode().combine_chunks()]),
        ):
            found = numbered(column)
            assert (found.type, found.to_pylist()) == (FILE, names)
            assert found.dictionary.to_pylist() == [*dict.fromkeys(names)]
    more = pa.DictionaryArray.from_arrays(pa.array([3, 1, 3], pa.int32()), pa.array(["a", "b", "c", "d"]))
    assert numbered(pa.chunked_array([more])).dictionary.to_pylist() == ["d", "b"], "and no others"


def test_a_manifest_is_stored_with_texts_and_kept_with_numbers(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2f_batch.runs.directory.MANIFEST_ROWS", 4)
    run = open_directory(str(tmp_path / "run"))
    for count in (0, 1, 9):
        listing = listing_of({f"/in/{number}.jpg": "v" for number in range(count)})
        plan = new_plan(listing, "f", 2, 1)
        assert plan.table["file"].type == FILE
        run.write_manifest(plan.manifest())
        stored = pq.read_table(tmp_path / "run/_state/manifest.parquet")
        texts = [(name, pa.string()) for name in ("uri", "version", "file")]
        assert stored.schema.remove_metadata() == pa.schema([("image_id", pa.int64()), *texts])
        assert stored["file"].to_pylist() == plan.table["file"].to_pylist()
        again = run.read_plan()
        assert again is not None and again.table.equals(plan.table) and again.plan_id == plan.plan_id


# ---- more than 2 GiB


@pytest.fixture(scope="module")
def huge() -> Iterator[pa.ChunkedArray]:
    """Texts of x in order, one longer than the other: views of the same bytes."""
    data = pa.py_buffer(b"x" * LENGTH)
    lengths = [LENGTH - ROWS + row for row in range(ROWS)]
    ends = [pa.py_buffer(np.array([0, length], np.int32)) for length in lengths]
    yield pa.chunked_array([pa.StringArray.from_buffers(1, end, data) for end in ends])


def test_the_text_is_more_than_one_array_holds(huge: pa.ChunkedArray) -> None:
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        huge.combine_chunks()


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def test_joins_of_more_text_than_one_array_holds(huge: pa.ChunkedArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 8)
    wanted = [len(text) for text in (huge.chunk(0)[0].as_py(), huge.chunk(ROWS - 1)[0].as_py())]
    versions = pa.array(["v"] * ROWS)
    listing = pa.table({"image_id": np.arange(ROWS), "uri": huge, "version": versions})
    plan = new_plan(listing, "f", 100, 2)
    units = pending(plan, ())
    assert len(units) == ROWS // 2 and units.part(149, 9).schema == UNIT_SCHEMA
    ((last,), (first,)) = (units.part(at, 1)["images"].to_pylist() for at in (149, 0))
    assert lengths([first[0]["uri"], last[1]["uri"]]) == wanted
    assigned = assigned_of(plan.manifest())
    assert lengths(assigned.first_uris) == [wanted[0] + row for row in (0, 100, 200)]
    assert assigned.is_sorted and assigned.ids(assigned.names[1]).tolist() == [*range(100, 200)]
    # every other one has changed, the last ten vanished
    new = pa.table(
        {"image_id": np.where(np.arange(290) % 2, np.arange(290), 1000 + np.arange(290)), "uri": huge.slice(0, 290)}
    ).append_column("version", versions.slice(0, 290))
    change = next_plan(plan, new, set(plan.names()), NONE, "f", 100, 2)
    assert (change.new, change.changed, change.vanished, len(change.dirty)) == (0, 145, 10, 3)
    left = pending(change.plan, set(plan.names()))
    assert len(left) == 73 and sum(ids(change.plan.table)) == sum(ids(new))
    assert lengths([left.part(1, 1)["images"][0][0]["uri"].as_py()]) == [wanted[0] + 4]
