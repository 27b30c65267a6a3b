"""Run directories whose manifest names files, made by hand: which image goes where is the test's to say."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from support.hand_made import Picture

from m2f_batch.records import ImageRef, Row, table_of
from m2f_batch.runs.directory import RunDirectory, open_directory, parquet_bytes
from m2f_batch.runs.plan import Plan

NAMES = ("cat", "dog", "sky")


def file_name(number: int) -> str:
    """The name of a file of rows: the higher the number, the earlier by name."""
    return f"{1000 - number:032x}"


def put_rows(run: RunDirectory, number: int, rows: Sequence[Row]) -> None:
    """Write a file of rows, as they are."""
    run.store.write(run.path(f"annotations/{file_name(number)}.parquet"), parquet_bytes(table_of(rows)))


def planned_run(
    folder: Path, files: Sequence[Sequence[Picture]], *, task: str = "panoptic", images_per_unit: int = 2
) -> RunDirectory:
    """A run of these files, whose uris may overlap; a file of which every picture remains is not there."""
    run = open_directory(str(folder))
    places = sorted((picture.uri, number, picture) for number, file in enumerate(files) for picture in file)
    table = pa.table(
        {
            "image_id": pa.array([picture.ref.image_id for _, _, picture in places], pa.int64()),
            "uri": pa.array([uri for uri, _, _ in places], pa.string()),
            "version": pa.array([picture.ref.version for _, _, picture in places], pa.string()),
            "file": pa.array([file_name(number) for _, number, _ in places], pa.string()),
        }
    )
    run.write_manifest(Plan("p1", images_per_unit, table).manifest())
    rows: list[Row] = []
    for number, file in enumerate(files):
        mine = [picture.row(NAMES) for picture in sorted(file, key=lambda p: p.uri) if not picture.remains]
        if mine:
            put_rows(run, number, mine)
        rows += mine
    failed = [f"{row['error']['stage']}/{row['error']['type']}" for row in rows if row["error"]]
    is_whole = len(rows) == len(places)
    run.write_info(
        {
            "run_id": "0123",
            "plan": "p1",
            "task": task,
            "model": {"uri": "/models/m", "revision": None, "fingerprint": "f", "license": "mit"},
            "config": {"input": {"uri": "/p", "root": None}},
            "fingerprint": "f",
            "categories": [
                {"id": i, "name": name, "isthing": name != "sky", "dataset_id": i + 1} for i, name in enumerate(NAMES)
            ],
            "images": {
                "listed": len(places),
                "ok": len(rows) - len(failed),
                "error": len(failed),
                "remaining": len(places) - len(rows),
                "skipped": 3,
                "duplicates": 2,
            },
            "segments": sum(len(row["segments"]) for row in rows),
            "errors": {reason: failed.count(reason) for reason in failed},
            "started_at": "2026-11-20T10:00:00+00:00",
            "finished_at": "2026-11-20T10:00:09+00:00" if is_whole else None,
            "seconds": 9.0,
            "images_per_second": 0.5,
            "attempts": 1,
        }
    )
    if is_whole:
        run.mark_success()
    return run


def id_of(uri: str) -> int:
    """The image id of a Picture of that uri."""
    return ImageRef(uri, "7-1").image_id
