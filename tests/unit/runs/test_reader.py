"""A run to read: typed run.json, rows in order, one row by any spelling of its image, samples, and pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image
from support.hand_made import Picture, box_mask
from support.planned_runs import NAMES, file_name, planned_run, put_rows

from m2f_batch.errors import DecodeError, ImageError, RunError, UsageError
from m2f_batch.explain.command import explain
from m2f_batch.models.label_sets import Category
from m2f_batch.records import ImageRef, Row, ok_row, table_of
from m2f_batch.runs.directory import RunDirectory, open_directory, parquet_bytes
from m2f_batch.runs.info import ImageCounts, ModelInfo
from m2f_batch.runs.plan import new_plan
from m2f_batch.runs.reader import Run, open_run
from m2f_batch.storage.places import open_store

SIZE = (6, 5)


def picture(name: str, segments: int = 1, **more: Any) -> Picture:
    box = box_mask(SIZE, 0, 0, 2, 2)
    return Picture(f"/p/{name}", SIZE, [(0, 0.5, box)] * segments, **more)


def rewrite(run: RunDirectory, *, without: str = "", **changes: Any) -> None:
    """Change keys of run.json, and take one out."""
    tree = run.read_info() | changes
    run.store.write(run.path("run.json"), json.dumps({k: v for k, v in tree.items() if k != without}).encode())


def test_run_json_is_typed(tmp_path: Path) -> None:
    error = ImageError("decode", "Truncated", "short")
    run = planned_run(tmp_path / "run", [[picture("a"), picture("b", error=error)], [picture("c", remains=True)]])
    rewrite(run, of_a_newer_release={"x": 1}, model=run.read_info()["model"] | {"more": 2})
    info = open_run(run.uri).info
    assert (info.run_id, info.task, info.segments, info.errors) == ("0123", "panoptic", 1, {"decode/Truncated": 1})
    assert info.model == ModelInfo("/models/m", None, "mit")
    assert info.images == ImageCounts(listed=3, ok=1, error=1, remaining=1, skipped=3, duplicates=2)
    assert info.categories[2] == Category(2, "sky", False, 3) and info.names == dict(enumerate(NAMES))
    assert (info.input_uri, info.input_root, info.max_pixels) == ("/p", None, 200_000_000)
    # what older releases did not write
    assert (info.attempts, info.retries, info.strangers, info.deadline_at, info.versions) == (1, 0, 0, None, {})
    rewrite(run, config={"input": {"uri": "/p", "max_pixels": 30, "of_a_newer_release": 1}, "output": 3})
    assert open_run(run.uri).info.max_pixels == 30


@pytest.mark.parametrize(
    "changes",
    [{"model": {}}, {"images": {"listed": 3}}, {"categories": [{"id": 1}]}, {"config": 5}, {"without": "run_id"}],
)
def test_what_is_no_run_json_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = planned_run(tmp_path / "run", [[picture("a")]])
    rewrite(run, **changes)
    with pytest.raises(RunError, match=r"RUN: \S*/run.json is not the run.json of a run$"):
        open_run(run.uri)


def test_where_no_run_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^RUN: {tmp_path} holds no run.json; give the OUTPUT of"):
        open_run(str(tmp_path))


def test_two_passes_see_the_same_rows(tmp_path: Path) -> None:
    run = planned_run(tmp_path / "run", [[picture("b"), picture("d")], [picture("a")], [picture("c", remains=True)]])
    opened = open_run(run.uri)
    assert [row["uri"] for table in opened.rows() for row in table.to_pylist()] == ["/p/a", "/p/b", "/p/d"]
    put_rows(run, 2, [picture("c").row(NAMES)])
    tables = [*opened.rows(["status", "uri"])]
    assert {tuple(table.column_names) for table in tables} == {("status", "uri")}
    assert [uri for table in tables for uri in table["uri"].to_pylist()] == ["/p/a", "/p/b", "/p/d"]
    assert sum(table.num_rows for table in open_run(run.uri).rows()) == 4
    assert opened.listed()["uri"].to_pylist() == ["/p/a", "/p/b", "/p/c", "/p/d"]


@pytest.fixture
def photos(tmp_path: Path) -> Run:
    """A run over three listed images, two of which have a row."""
    names = [str(tmp_path / "photos" / name) for name in ("a b.jpg", "more/c.jpg", "z.jpg")]
    refs = [ImageRef(name, "7-1") for name in names]
    listing = pa.table(
        {"image_id": pa.array([ref.image_id for ref in refs], pa.int64()), "uri": names, "version": ["7-1"] * 3}
    )
    planned_run(tmp_path / "run", [[picture("a")]])  # its run.json
    run, plan = open_directory(str(tmp_path / "run")), new_plan(listing, "f", 2, 2)
    rewrite(run, config={"input": {"uri": str(tmp_path / "photos"), "root": None}})
    run.write_manifest(plan.manifest())
    rows = [ok_row(ref, (8, 8), []) for ref in refs[:2]]
    file = plan.table["file"][0].as_py()
    run.store.write(run.path(f"annotations/{file}.parquet"), parquet_bytes(table_of(rows)))
    return open_run(run.uri)


def test_an_image_is_found_by_any_spelling(photos: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "photos")
    for spelling in (f"{folder}/a b.jpg", "photos/more/../a b.jpg", f"file://{folder}/a%20b.jpg", "a b.jpg"):
        ref, row = photos.find(spelling)
        assert row is not None and row == photos.row(spelling)
        assert (ref.uri, row["image_id"]) == (f"{folder}/a b.jpg", ref.image_id)
    assert photos.row("z.jpg") is None
    with pytest.raises(UsageError, match=r"^uri: 'c.jpg' is none of the 3 images.*did you mean .*/more/c.jpg\?"):
        photos.row("c.jpg")
    with pytest.raises(UsageError, match=r"did you mean \S*photos/a b.jpg,"):
        photos.row("photos/a bb.jpg")
    with pytest.raises(UsageError, match=r"^URI: 'c.jpg' is none of the 3 images"):
        explain(photos.uri, "c.jpg", say=print)


def test_before_anything_is_listed(tmp_path: Path) -> None:
    run = planned_run(tmp_path / "run", [[picture("a")]])
    run.delete([run.path("_state/manifest.parquet")])
    with pytest.raises(UsageError, match=rf"^run: {run.uri} has listed no images yet; try again when it has$"):
        open_run(run.uri).row("a")


def test_a_sample_is_the_same_however_the_run_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [picture(f"{n:03d}", segments=n % 3) for n in range(60)]
    one, many = (
        open_run(planned_run(tmp_path / name, [pictures[start::step] for start in range(step)]).uri)
        for name, step in (("one", 1), ("many", 20))
    )
    reads: list[str] = []
    read = RunDirectory.read_annotations

    def counted(self: RunDirectory, uri: str, columns: list[str] | None = None) -> pa.Table:
        reads.append(uri)
        return read(self, uri, columns)

    monkeypatch.setattr(RunDirectory, "read_annotations", counted)
    drawn = many.sample(5)
    files = {file_name(int(row["uri"][-3:]) % 20) for row in drawn}
    assert sorted(reads) == sorted(many.directory.path(f"annotations/{file}.parquet") for file in files)
    assert len(drawn) == 5 and drawn == one.sample(5) == many.sample(5) != many.sample(5, seed=1)
    uris = [row["uri"] for row in drawn]
    assert uris == sorted(uris) and uris != [f"/p/{n:03d}" for n in range(5)]
    everything = [row for table in one.rows() for row in table.to_pylist()]
    assert one.sample(99) == many.sample(99) == everything and many.sample(0) == []
    assert {row["uri"] for row in many.sample(5)} <= {row["uri"] for row in many.sample(9)}
    empty = many.sample(7, pc.list_value_length(pc.field("segments")) == 0)
    assert len(empty) == 7 and empty == one.sample(7, pc.list_value_length(pc.field("segments")) == 0)
    assert all(row["segments"] == [] for row in empty)
    seen = {row["uri"] for seed in range(60) for row in many.sample(5, seed=seed)}
    assert len(seen) > 50, "every image has its chance"


@pytest.fixture
def turned(tmp_path: Path) -> tuple[Run, Row]:
    """A run of one image, 2 pixels high and 3 wide, that EXIF turns by 90 degrees."""
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(path, exif=exif)
    run = planned_run(tmp_path / "run", [[picture("a")]])
    entry = open_store(str(path)).stat(str(path))
    assert entry is not None
    row = ok_row(ImageRef(str(path), entry.version), (3, 2), [])
    return open_run(run.uri), row


def test_the_pixels_behind_a_row(turned: tuple[Run, Row]) -> None:
    run, row = turned
    image = run.image(row)
    assert image.dtype == np.uint8
    assert image.tolist() == np.rot90(np.arange(18).reshape(2, 3, 3), -1).tolist()


def test_pixels_that_must_not_be_read(turned: tuple[Run, Row], monkeypatch: pytest.MonkeyPatch) -> None:
    run, row = turned
    with pytest.raises(ImageError, match="has changed since it was listed"):
        run.image(row | {"version": "1-1"})
    rewrite(run.directory, config={"input": {"uri": "/p", "root": None, "max_pixels": 5}})
    with pytest.raises(DecodeError, match="TooManyPixels"):
        open_run(run.uri).image(row)
    monkeypatch.setenv("M2F_BATCH_ALLOW", run.uri)
    with pytest.raises(ImageError, match=r"NotAllowed.*lies outside the allow-list"):
        run.image(row)
