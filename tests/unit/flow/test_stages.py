"""The stages without Ray: what they spend, and units that are rows of larger blocks."""

import time

import numpy as np
import pyarrow as pa
import pytest
from support.views import one_view

import m2f_batch.flow.unit.stages as stages
import m2f_batch.vision.pixels.preprocess as preprocess
from m2f_batch.errors import ImageError, TransientError
from m2f_batch.flow.unit.labeler import Labeled
from m2f_batch.flow.unit.units import DONE_SCHEMA, LABELED_SCHEMA, PREPARED_SCHEMA, rows_of, split_unit, with_seconds
from m2f_batch.records import SCHEMA, ImageRef, Segment, error_row, ok_row, table_of
from m2f_batch.runs.directory import open_directory, parquet_bytes
from m2f_batch.runs.plan import Unit
from m2f_batch.vision.cuts.whole import WHOLE

FETCH_SECONDS, DECODE_SECONDS = 0.02, 0.03


class FakeSegmenter:
    """One segment per image, whose area is the sum of its pixels."""

    checked = None

    def label(self, images):
        self.shapes = [image.contents[0].shape for image in images]
        return [[Segment(1, 0, "ball", 0.5, int(i.contents[0].sum()), (0, 0, 1, 1), "01", i.output_hw)] for i in images]

    def take_seconds(self):
        return {"forward": 2.0, "postprocess": 0.5}


@pytest.fixture
def fakes(monkeypatch):
    """Images whose bytes are their height: of ones, times their height. 3 cannot be decoded, 7 is throttled."""

    def fetch_many(refs, threads):
        for ref in refs:
            time.sleep(FETCH_SECONDS)
            if ref.version == "7":
                raise TransientError("s3: SlowDown")
            yield ref, bytes([int(ref.version)])

    def prepare_image(data, plan, max_pixels, cut):
        height, until = data[0], time.thread_time() + DECODE_SECONDS
        while time.thread_time() < until:
            pass
        if height == 3:
            return ImageError("decode", "Truncated", "short", size_hw=(3, 2))
        return one_view(np.full((height, 2, 3), height, np.uint8), (32, 32), (10 * height, 20))

    monkeypatch.setattr(stages, "fetch_many", fetch_many)
    monkeypatch.setattr(preprocess, "prepare_image", prepare_image)


def prepared(*heights: int, name: str = "unit") -> pa.Table:
    refs = tuple(ImageRef(f"/p/{name}/{height}.jpg", str(height)) for height in heights)
    return stages.prepare_unit(stages.unit_table(Unit(name, refs)), plan=None, cut=WHOLE, max_pixels=1, threads=1)


def expected_rows(*heights: int, name: str = "unit") -> list[dict]:
    rows = []
    for height in heights:
        ref = ImageRef(f"/p/{name}/{height}.jpg", str(height))
        if height == 3:
            rows.append(error_row(ref, ImageError("decode", "Truncated", "short", size_hw=(3, 2))))
        else:
            area = height * height * 6
            rows.append(ok_row(ref, (10 * height, 20), [Segment(1, 0, "ball", 0.5, area, (0, 0, 1, 1), "01", (1, 1))]))
    return rows


def test_seconds_travel_with_the_unit_and_add_up(fakes, tmp_path):
    unit = prepared(1, 3, 2)
    assert unit.schema.equals(PREPARED_SCHEMA)
    seconds = dict(unit["seconds"].to_pylist()[0])
    assert seconds["fetch"] >= 3 * FETCH_SECONDS
    assert 3 * DECODE_SECONDS <= seconds["decode"] < 6 * DECODE_SECONDS, "waiting for bytes is not decoding"
    assert unit["bytes"].to_pylist() == [3]
    labelled = stages.label_unit(unit, FakeSegmenter())
    assert labelled.schema.equals(LABELED_SCHEMA)
    assert dict(labelled["seconds"].to_pylist()[0]) == {**seconds, "forward": 2.0, "postprocess": 0.5}
    done = with_seconds(stages.commit_unit(labelled, run=open_directory(str(tmp_path / "run"))), {"write": 0.25})
    assert done.schema.equals(DONE_SCHEMA)
    (row,) = done.to_pylist()
    assert dict(row["seconds"]) == {**seconds, "forward": 2.0, "postprocess": 0.5, "write": 0.25}
    assert (row["ok"], row["error"], row["segments"], row["reasons"]) == (2, 1, 2, [("decode/Truncated", 1)])
    assert row["replica"]


def test_rows_are_those_of_plain_python(fakes):
    labelled = stages.label_unit(prepared(1, 3, 2), FakeSegmenter())
    expected = table_of(expected_rows(1, 3, 2))
    assert rows_of(labelled).schema.equals(SCHEMA, check_metadata=True)
    assert rows_of(labelled).equals(expected)
    assert parquet_bytes(rows_of(labelled)) == parquet_bytes(expected)


def test_sidecars_are_committed_with_the_rows(fakes, tmp_path):
    """An image has as many rows of a table as it likes, and one that failed has none."""

    class Measuring(FakeSegmenter):
        def label(self, images):
            boxes = ([f"{len(images)} {number}"] * number for number in range(len(images)))
            tables = (pa.table({"box": pa.array(box, pa.string())}) for box in boxes)
            return [Labeled(result, {"boxes": next(tables)}) for result in super().label(images)]

    run = open_directory(str(tmp_path / "run"))
    labelled = stages.label_unit(prepared(1, 3, 2), Measuring())
    assert rows_of(labelled).equals(table_of(expected_rows(1, 3, 2)))
    stages.commit_unit(labelled, run=run)
    rows = run.read_annotations(run.path("annotations/unit.parquet"))
    assert rows.equals(table_of(expected_rows(1, 3, 2)))
    boxes = run.read_annotations(run.path("boxes/unit.parquet"))
    assert boxes.to_pylist() == [{"image_id": rows["image_id"][2].as_py(), "box": "2 1"}]
    stages.commit_unit(stages.label_unit(prepared(1, name="plain"), FakeSegmenter()), run=run)
    assert sorted(path.name for path in (tmp_path / "run" / "boxes").iterdir()) == ["unit.parquet"]


def test_a_unit_may_be_a_row_of_a_larger_block(fakes, tmp_path):
    units = {"a": (1, 2), "b": (3,), "c": (5, 3, 4)}
    block = pa.concat_tables([prepared(*heights, name=name) for name, heights in units.items()]).combine_chunks()
    segmenter = FakeSegmenter()
    labelled = pa.concat_tables(
        [stages.label_unit(block.slice(row, 1), segmenter) for row in range(3)]
    ).combine_chunks()
    assert segmenter.shapes == [(5, 2, 3), (4, 2, 3)]
    run = open_directory(str(tmp_path / "run"))
    for row, (name, heights) in enumerate(units.items()):
        stages.commit_unit(labelled.slice(row, 1), run=run)
        written = run.read_annotations(run.path(f"annotations/{name}.parquet"))
        assert written.equals(table_of(expected_rows(*heights, name=name)))


def test_a_unit_that_was_not_fetched_whole_has_no_rows(fakes, tmp_path):
    unit = prepared(1, 7, 2)
    done = stages.commit_unit(stages.label_unit(unit, FakeSegmenter()), run=open_directory(str(tmp_path / "run")))
    (row,) = done.to_pylist()
    assert (row["transient"], row["ok"], row["error"]) == ("s3: SlowDown", 0, 0)
    assert not (tmp_path / "run").exists()
    assert split_unit(unit).num_rows == 1


def test_a_unit_of_failures_only(fakes):
    assert rows_of(stages.label_unit(prepared(3), FakeSegmenter())).equals(table_of(expected_rows(3)))


def test_splitting_a_unit_keeps_images_and_shares_seconds(fakes):
    unit = prepared(1, 3, 2)
    parts = split_unit(unit).combine_chunks()
    assert parts.num_rows == 3
    total = dict(unit["seconds"].to_pylist()[0])
    for part, height in zip(range(3), (1, 3, 2), strict=True):
        row = parts.slice(part, 1)
        assert dict(row["seconds"].to_pylist()[0]) == pytest.approx({s: t / 3 for s, t in total.items()})
        assert rows_of(stages.label_unit(row, FakeSegmenter())).equals(table_of(expected_rows(height)))
