"""Places where the same run can happen: in this process, stage by stage, and on Ray through the job itself."""

from collections.abc import Generator, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import Precision, SegmentConfig, Task
from m2f_batch.messages.events import Events, print_line
from m2f_batch.records import Row
from m2f_batch.result import Outcome
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.info import RunTotals
from m2f_batch.runs.plan import Unit

if TYPE_CHECKING:
    from m2f_batch.models.predictions import Predictor
    from m2f_batch.vision.device.checked_model import Forward


def config_of(
    source: str | Path, output: str | Path, model: str | Path, /, **sections: dict[str, Any]
) -> SegmentConfig:
    """A config from its three places and further sections."""
    tree: dict[str, Any] = {
        "input": {"uri": str(source), "max_error_fraction": 1.0},
        "model": {"uri": str(model), "task": "panoptic"},
        "output": {"uri": str(output), "images_per_file": 5},
    }
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values}
    return check_config(SegmentConfig, tree)


def in_process(config: SegmentConfig, **handed_on: Any) -> int:
    """The stages of the pipeline called one after the other, without Ray. Returns the exit code."""
    return outcome_of(config, **handed_on).exit_code


def outcome_of(config: SegmentConfig, **handed_on: Any) -> Outcome[RunTotals]:
    """What ``in_process`` ends with, as data."""
    import torch

    from m2f_batch.flow.job import check, run
    from m2f_batch.flow.unit.stages import commit_unit, label_unit, prepare_unit, preparing, unit_table
    from m2f_batch.flow.unit.units import DoneUnit
    from m2f_batch.vision.segmenter import Segmenter

    job = check(config)
    cpu, threads = torch.device("cpu"), config.compute.threads_per_actor
    batch_size = config.compute.batch_size or 8
    directory = job.checkpoint.directory
    stamps = tuple(sorted((str(path), path.stat().st_mtime_ns) for path in directory.iterdir()))
    model, checked = _loaded(directory, stamps, job.labeling.task, job.labeling.precision, threads)
    segmenter = Segmenter(model, job.labeling, cpu, threads=threads, batch_size=batch_size, checked=checked)
    options = preparing(job.labeling, config.input.max_pixels, threads=4)

    def stream(units: Iterable[Unit]) -> Generator[DoneUnit, None, None]:
        for unit in units:
            prepared = prepare_unit(unit_table(unit), **options)
            yield from commit_unit(label_unit(prepared, segmenter), run=job.run).to_pylist()

    return run(job, "cpu", stream, **{"events": Events(config.run.log, show=print_line), **handed_on})


def around_stubs(config: SegmentConfig) -> int:
    """The same without decoding and without a model, as ``stubs.steps()`` on Ray. Returns the exit code."""
    from benchmarks.lib import stubs
    from m2f_batch.flow.job import check, run
    from m2f_batch.flow.unit.stages import commit_unit, label_unit, unit_table
    from m2f_batch.flow.unit.units import DoneUnit

    job, segmenter = check(config), stubs.StubSegmenter(0.0, None)

    def stream(units: Iterable[Unit]) -> Generator[DoneUnit, None, None]:
        for unit in units:
            yield from commit_unit(label_unit(stubs.prepare(unit_table(unit)), segmenter), run=job.run).to_pylist()

    return run(job, "cpu", stream).exit_code


@lru_cache(maxsize=4)
def _loaded(
    directory: Path, _: tuple[tuple[str, int], ...], task: Task, precision: Precision, threads: int
) -> "tuple[Predictor, Forward]":
    """A model of these files as they are. Loading it takes as long as labeling the images of a test."""
    import torch

    from m2f_batch.vision.device.checked_model import load_checked

    return load_checked(directory, torch.device("cpu"), task=task, precision=precision, threads=threads)


def forget_models() -> None:
    """Let the next run load its model, as a test needs that breaks the model's code, or mends it."""
    _loaded.cache_clear()


def on_ray(config: SegmentConfig) -> int:
    """The job itself, on the Ray session of the tests."""
    from m2f_batch.flow.job import segment

    return segment(config, events=Events(config.run.log, show=print_line)).exit_code


def rows_of(output: str | Path) -> list[Row]:
    """All rows of a run by uri."""
    run: RunDirectory = open_directory(str(output))
    rows = [row for file in run.annotation_files() for row in run.read_annotations(file).to_pylist()]
    return sorted(rows, key=lambda row: row["uri"])


def same_but_for_their_names(some: list[dict], others: list[dict]) -> bool:
    """Whether rows are equal, except for image_id, uri and version; file names must agree."""

    def bare(row: dict) -> dict:
        return {**row, "image_id": None, "version": None, "uri": row["uri"].rpartition("/")[2]}

    return [bare(row) for row in some] == [bare(row) for row in others]
