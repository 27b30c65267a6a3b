"""Jobs whose OUTPUT is labeled in part or in full, without a model."""

from pathlib import Path
from typing import Any

from conftest import DEMO_MODEL
from support.engines import config_of
from support.protocol import rows_of_unit

from m2f_batch.errors import ImageError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import (
    Work,
    read_output_state,
    work_of,
)
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.job import check
from m2f_batch.records import error_row, table_of
from m2f_batch.runs.plan import pending
from m2f_batch.runs.writing.commit import commit


def job_of(images: Path, **sections: dict[str, Any]) -> Job:
    output = {"images_per_file": 2, **sections.pop("output", {})}
    return check(config_of(images, images.parent / "run", DEMO_MODEL, output=output, **sections))


def label(job: Job, work: Work, files: int | None = None, *, finish: bool = True) -> None:
    """Begin the work, and label so many files of it, every second image with an error."""
    begin(job.run, work)
    for unit in [*pending(work.plan, job.run.committed())][:files]:
        stages = [("decode", "Truncated"), ("fetch", "NotFound")]
        rows = [
            error_row(ref, ImageError(*stages[number // 2 % 2], "x")) if number % 2 else row
            for row, ref in zip(rows_of_unit(unit).to_pylist(), unit.refs, strict=True)
            for number in [int(Path(ref.uri).stem)]
        ]
        commit(job.run, unit.name, table_of(rows))
    if files is None and finish:
        job.run.mark_success()


def done(images: Path) -> Job:
    """A job whose run is finished."""
    job = job_of(images)
    label(job, work_of(job, read_output_state(job.run), "cpu"))
    return job
