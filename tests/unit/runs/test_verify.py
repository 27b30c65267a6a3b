"""verify: silent on a good run, and the right words for every planted fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask
from support.hand_made import Picture, box_mask, make_run

from m2f_batch.cli import main
from m2f_batch.errors import ImageError
from m2f_batch.records import ImageRef, table_of
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.inspect.verify import verify

SIZE = (12, 16)
UPPER, LOWER = box_mask(SIZE, 0, 0, 5, 16), box_mask(SIZE, 5, 3, 7, 9)


def units() -> list[list[Picture]]:
    return [
        [Picture("/p/a.jpg", SIZE, [(0, 0.9, UPPER), (1, 0.8, LOWER)]), Picture("/p/b.jpg", SIZE, [])],
        [Picture("/p/c.jpg", error=ImageError("decode", "Truncated", "short", size_hw=(3, 4)))],
        [
            Picture("/p/d.jpg", SIZE, [(2, 1.0, box_mask(SIZE, 0, 0, 12, 16))]),
            Picture("/p/e.jpg", SIZE, [(0, 0.5, LOWER)]),
        ],
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", units())


def change(run: RunDirectory, uri: str, act: Callable[[dict[str, Any]], None]) -> None:
    """Change the row of one image in its file."""
    for file in run.annotation_files():
        rows = run.read_annotations(file).to_pylist()
        for row in rows:
            if row["uri"] == uri:
                act(row)
        run.store.write(file, parquet_bytes(table_of(rows)))


def file_of(run: RunDirectory, uri: str) -> str:
    return next(file for file in run.annotation_files() if uri in run.read_annotations(file)["uri"].to_pylist())


def set_info(run: RunDirectory, **images: int) -> None:
    info = run.read_info()
    run.write_info(info | {"images": info["images"] | images})


def first_segment(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row["segments"][0].update(changes)


def test_a_good_run_verifies(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(run, "panoptic") == []
    assert main(["verify", run.uri]) == 0
    assert capsys.readouterr().out == (
        f"{run.uri}: verified; finished; 5 listed = 4 ok + 1 error + 0 remaining; 4 segments\n"
    )


@pytest.mark.parametrize("task", ["instance", "semantic", "panoptic"])
def test_a_run_that_goes_on_verifies(tmp_path: Path, task: str) -> None:
    parts = units()
    parts[0][0].remains = parts[2][1].remains = True
    assert verify(make_run(tmp_path / "run", parts, task=task), task) == []
    everything = [[Picture("/p/x.jpg", remains=True)]]
    assert verify(make_run(tmp_path / "none", everything, task=task), task) == []


def test_overlap_is_allowed_to_instances_only(tmp_path: Path) -> None:
    overlapping = [(0, 0.9, UPPER), (1, 0.8, box_mask(SIZE, 4, 0, 4, 16))]
    for task, problems in (
        ("instance", []),
        *((t, [f"/p/x.jpg: {t} segments overlap"]) for t in ("panoptic", "semantic")),
    ):
        run = make_run(tmp_path / task, [[Picture("/p/x.jpg", SIZE, overlapping)]], task=task)
        assert verify(run, task) == problems


def test_a_semantic_segment_is_one_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Picture("/p/x.jpg", SIZE, [(0, 0.9, UPPER), (0, 0.8, LOWER)])]], task="semantic")
    assert verify(run, "panoptic") == []
    assert verify(run, "semantic") == ["/p/x.jpg: semantic segments share a class"]


def test_a_missing_row(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(run, "/p/b.jpg")
    run.store.write(file, parquet_bytes(run.read_annotations(file).slice(0, 1)))
    problems = verify(run, "panoptic")
    assert "1 listed images have no row, e.g. /p/b.jpg; run.json says 0 remain" in problems
    assert "_SUCCESS is there although 1 images remain, e.g. /p/b.jpg" in problems
    assert main(["verify", run.uri]) == 1
    assert f"{run.uri}: {len(problems)} problems; finished;" in capsys.readouterr().out


def test_a_missing_file(run: RunDirectory) -> None:
    run.store.delete([file_of(run, "/p/d.jpg")])
    problems = verify(run, "panoptic")
    assert "2 listed images have no row, e.g. /p/d.jpg; run.json says 0 remain" in problems
    assert any(problem.startswith("run.json counts {'ok': 4, 'error': 1, 'segments': 4}") for problem in problems)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_doubled_row(run: RunDirectory, elsewhere: bool) -> None:
    file = file_of(run, "/p/b.jpg")
    table = run.read_annotations(file)
    doubled = table.slice(1, 1)
    if elsewhere:
        run.commit("f" * 32, doubled)
    else:
        run.store.write(file, parquet_bytes(pa.concat_tables([table, doubled])))
    problems = verify(run, "panoptic")
    assert problems[0] == f"1 image ids have more than one row, e.g. {ImageRef('/p/b.jpg', '7-1').image_id}"
    assert problems[1].startswith("run.json counts ") and len(problems) == 2


def test_success_though_images_remain(tmp_path: Path) -> None:
    parts = units()
    parts[0][0].remains = True
    run = make_run(tmp_path / "run", parts)
    run.mark_success()
    assert verify(run, "panoptic") == ["_SUCCESS is there although 1 images remain, e.g. /p/a.jpg"]


def test_a_row_of_an_image_that_was_not_listed(run: RunDirectory) -> None:
    stray = Picture("/p/zzz.jpg", SIZE, [])
    run.commit("e" * 32, table_of([stray.row(())]))
    assert f"1 rows are of images that were not listed, e.g. {stray.ref.image_id}" in verify(run, "panoptic")


def test_totals_that_are_off(run: RunDirectory) -> None:
    set_info(run, ok=5, error=0)
    (problem,) = verify(run, "panoptic")
    assert problem == (
        "run.json counts {'ok': 5, 'error': 0, 'segments': 4}; the files hold {'ok': 4, 'error': 1, 'segments': 4}"
    )
    set_info(run, ok=4, error=1, listed=6)
    assert verify(run, "panoptic") == ["run.json says 6 images were listed; the manifest holds 5"]
    set_info(run, listed=5, remaining=1)
    assert verify(run, "panoptic") == ["0 listed images have no row; run.json says 1 remain"]
    set_info(run, remaining=0)
    run.write_info(run.read_info() | {"errors": {"fetch/Denied": 1}})
    assert verify(run, "panoptic") == [
        "run.json counts the errors {'fetch/Denied': 1}; the files hold {'decode/Truncated': 1}"
    ]
    run.write_info(run.read_info() | {"errors": {"decode/Truncated": 1}, "segments": 3})
    assert len(verify(run, "panoptic")) == 1


ROW_FAULTS = {
    "area": (first_segment(area=81), "segment 1: area or bbox are not its mask's"),
    "bbox": (first_segment(bbox=[0.0, 0.0, 16.0, 6.0]), "segment 1: area or bbox are not its mask's"),
    "another mask": (first_segment(counts=None), "segments, or parts of them, are null"),
    "ids": (first_segment(id=2), "the ids of its segments do not count from 1"),
    "ids from 0": (lambda row: [s.update(id=s["id"] - 1) for s in row["segments"]], "do not count from 1"),
    "order of ids": (lambda row: row["segments"].reverse(), "do not count from 1"),
    "category": (first_segment(category="dog"), "segment 1: category 0 is not 'dog'"),
    "category id": (first_segment(category_id=3), "segment 1: category 3 is not 'cat'"),
    "score": (first_segment(score=1.5), "segment 1: score 1.5 is not between 0 and 1"),
    "no number": (first_segment(score=float("nan")), "segment 1: score nan is not between 0 and 1"),
    "null segment": (lambda row: row["segments"].append(None), "segments, or parts of them, are null"),
    "null segments": (lambda row: row.update(segments=None), "segments, or parts of them, are null"),
    "no size": (lambda row: row.update(height=None), "an image that was labeled has no size"),
    "another size": (lambda row: row.update(height=13), "segment 1: counts are not those of a mask of its size"),
    "transposed size": (lambda row: row.update(height=16, width=12), "segment 1: area or bbox are not its mask's"),
    "status": (lambda row: row.update(status="done"), "status 'done' does not go with error None"),
    "error with ok": (
        lambda row: row.update(error={"stage": "s", "type": "t", "message": "m"}),
        "status 'ok' does not go with error {",
    ),
    "error without reason": (lambda row: row.update(status="error"), "status 'error' does not go with error None"),
    "error with segments": (
        lambda row: row.update(status="error", error={"stage": "s", "type": "t", "message": "m"}),
        "an error row has segments",
    ),
    "uri": (lambda row: row.update(uri="/p/z.jpg"), "is not that of its uri and version"),
    "version": (lambda row: row.update(version="7-2"), "is not that of its uri and version"),
}


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_faults_in_a_row_are_named(run: RunDirectory, fault: str) -> None:
    act, told = ROW_FAULTS[fault]
    change(run, "/p/a.jpg", act)
    found = [problem for problem in verify(run, "panoptic") if told in problem]
    assert len(found) == 1 and found[0].startswith("/p/z.jpg: " if fault == "uri" else "/p/a.jpg: ")


def test_an_empty_mask_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Picture("/p/x.jpg", SIZE, [(0, 0.9, np.zeros(SIZE, bool))])]])
    assert verify(run, "panoptic") == ["/p/x.jpg: a segment is empty"]


def encoded(*runs: int) -> str:
    """Runs as pycocotools writes them, sense or not."""
    return coco_mask.frPyObjects({"size": [12, 16], "counts": list(runs)}, 12, 16)["counts"].decode()


@pytest.mark.parametrize(
    "counts",
    [
        "",
        " ",
        "é日",
        "\x00",
        "\n0",
        "~~~~",
        "PPPP",  # digits that promise another
        "0" * 5000,
        "o" * 5000 + "0",  # one number of thousands of digits
        "oooooo?" * 300,
        "oooooooooooooO",
        "0" + "oooooo?" * 2,
        encoded(192)[:-1],
        encoded(0, 192) + "0",
        encoded(0, 191),
        encoded(0, 193),
        encoded(2**32 - 1, 193),  # 192 modulo 2^32
        encoded(100, 0, 92),  # a run of nothing: another spelling of the same mask
        encoded(90, 10, 92, 0),
        "PP6",
        "not a mask at all",
        "{}",
    ],
)
def test_garbage_in_counts_is_named_and_harmless(run: RunDirectory, counts: str) -> None:
    change(run, "/p/a.jpg", first_segment(counts=counts))
    assert verify(run, "panoptic") == ["/p/a.jpg: segment 1: counts are not those of a mask of its size"]
    change(run, "/p/a.jpg", lambda row: row["segments"][1].update(counts=counts))
    assert len(verify(run, "instance")) == 1


def test_another_spelling_of_the_same_mask_is_named(run: RunDirectory) -> None:
    good = run.read_annotations(file_of(run, "/p/a.jpg")).to_pylist()[0]["segments"][0]["counts"]
    last = ord(good[-1]) - 48
    longer = good[:-1] + chr(48 + (last | 0x20)) + ("O" if last & 0x10 else "0")  # a digit more than the number needs
    codes = [{"size": list(SIZE), "counts": counts.encode()} for counts in (good, longer)]
    assert np.array_equal(*[coco_mask.decode(code) for code in codes]) and longer != good
    change(run, "/p/a.jpg", first_segment(counts=longer))
    assert verify(run, "panoptic") == ["/p/a.jpg: segment 1: counts are not those of a mask of its size"]


def test_random_garbage_in_counts_never_passes_for_another_mask(run: RunDirectory) -> None:
    rng = np.random.default_rng(0)
    good = run.read_annotations(file_of(run, "/p/a.jpg")).to_pylist()[0]["segments"][0]["counts"]
    for _ in range(40):
        text = list(good)
        for place in rng.integers(0, len(text), 2):
            text[place] = chr(rng.integers(48, 112))
        change(run, "/p/a.jpg", first_segment(counts="".join(text)))
        assert bool(verify(run, "panoptic")) == ("".join(text) != good)


def test_another_schema_is_named(run: RunDirectory) -> None:
    file = file_of(run, "/p/c.jpg")
    table = run.read_annotations(file)
    others = [
        table.append_column("more", pa.array([1])),
        table.drop_columns(["error"]),
        table.set_column(3, "height", table["height"].cast(pa.int64())),
        table.select(list(reversed(table.column_names))),
        table.cast(pa.schema([field.with_nullable(True) for field in table.schema])),
    ]
    for other in others:
        run.store.write(file, parquet_bytes(other))
        assert f"{file}: its schema is not the frozen one" in verify(run, "panoptic")


def test_files_that_are_no_parquet_are_named(run: RunDirectory) -> None:
    file = file_of(run, "/p/c.jpg")
    whole = run.store.read(file)
    for data in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], b"x" * 5000):
        run.store.write(file, data)
        problems = verify(run, "panoptic")
        assert problems[0].startswith(f"{file}: cannot be read as Parquet (")
        assert "1 listed images have no row, e.g. /p/c.jpg; run.json says 0 remain" in problems
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 40] = b"\xff" * 40
    run.store.write(file, bytes(damaged))
    assert verify(run, "panoptic")


def test_files_beside_the_rows_do_not_matter(run: RunDirectory) -> None:
    run.store.write(run.path("annotations/.x.tmp"), b"half a file")
    run.store.write(run.path("notes.txt"), b"mine")
    assert verify(run, "panoptic") == []


def test_rows_are_written_with_zstd(run: RunDirectory) -> None:
    file = pq.ParquetFile(file_of(run, "/p/a.jpg"))
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {"ZSTD"}
