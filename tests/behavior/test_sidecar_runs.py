"""A run whose step returns a table beside the rows: written, killed between two writes, gone on with, verified."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import DEMO_MODEL
from support.engines import config_of, rows_of

from benchmarks.lib import stubs
from m2f_batch.flow import job
from m2f_batch.flow.unit.labeler import Labeled
from m2f_batch.flow.workers import Steps
from m2f_batch.records import ImageRef, Row, ok_row
from m2f_batch.runs.inspect.verify import verify
from m2f_batch.runs.reader import open_run
from m2f_batch.vision.pixels.prepared import Prepared


def measuring_steps() -> Steps:
    """Steps whose segmenter says the size of each image in a table of its own; local, so that they travel whole."""

    class Measuring(stubs.StubSegmenter):
        def label(self, images: Sequence[Prepared]) -> list[Any]:
            table = pa.table({"pixels": pa.array([16], pa.int64())})
            return [Labeled(segments, {"sizes": table}) for segments in super().label(images)]

    return replace(stubs.steps(), load=lambda _: Measuring(0.0, None))


def test_sidecars_of_a_real_run(ray_session, tmp_path):
    steps = measuring_steps()
    names = [*stubs.uris(60)]

    def segment(output: str) -> list[dict[str, Any]]:
        sections = {"output": {"images_per_file": 20}, "compute": {"actors": 1, "threads_per_actor": 1}}
        config = config_of(tmp_path / "in.parquet", tmp_path / output, DEMO_MODEL, **sections)
        assert job.segment(config, steps=steps).exit_code == 0
        run = open_run(str(tmp_path / output))
        assert verify(run.directory, "panoptic") == []
        assert sorted(path.name for path in (tmp_path / output / "sizes").iterdir()) == sorted(
            path.name for path in (tmp_path / output / "annotations").iterdir()
        )
        return sorted((row for table in run.sidecar("sizes") for row in table.to_pylist()), key=lambda r: r["image_id"])

    pq.write_table(pa.table({"uri": names}), tmp_path / "in.parquet")
    assert segment("run") == sizes_of(rows_of(tmp_path / "run"))
    # killed after a sidecar and before its rows, and with a sidecar of a file that no plan names
    (tmp_path / "run" / "_SUCCESS").unlink()
    next((tmp_path / "run" / "annotations").iterdir()).unlink()
    (tmp_path / "run" / "sizes" / f"{'0' * 32}.parquet").write_bytes(b"of a run that was replaced")
    names = sorted([*names[5:], "/nowhere/new.jpg"])
    pq.write_table(pa.table({"uri": names}), tmp_path / "in.parquet")
    assert segment("run") == sizes_of(rows_of(tmp_path / "run"))
    assert rows_of(tmp_path / "run") == [ok_row(ImageRef(name, ""), stubs.SIZE_HW, [stubs.SEGMENT]) for name in names]


def sizes_of(rows: list[Row]) -> list[dict[str, Any]]:
    """The sidecar of these rows."""
    return sorted(({"image_id": row["image_id"], "pixels": 16} for row in rows), key=lambda r: r["image_id"])
