"""The package inside a Ray session of its caller's: the job, and a stage of a pipeline that is not ours.

It is long: some 20 s of CPU, most of it workers that import torch. What a job gives back to the session of its caller
is held by tests/unit/ray_session/test_session.py, and the stage by tests/unit/vision/test_batch_segmenter.py.
"""

import logging
from pathlib import Path

import pytest
import ray
import ray.data
from conftest import DEMO_MODEL, LONG
from ray.data import DataContext

import m2f_batch
from m2f_batch.vision.batch_segmenter import ADDED


def settings() -> tuple[object, ...]:
    context = DataContext.get_current()
    return (
        id(context),
        context.enable_progress_bars,
        context.target_max_block_size,
        context.max_errored_blocks,
        context.execution_options.preserve_order,
        logging.getLogger("ray").level,
        logging.getLogger("ray.data").level,
    )


@LONG
def test_the_job_and_a_stage_of_a_pipeline(
    ray_session: None, scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    context = DataContext.get_current()
    context.enable_progress_bars = False
    before, node = settings(), ray.get_runtime_context().get_node_id()
    capfd.readouterr()
    outcome = m2f_batch.segment(
        scenes, tmp_path / "run", model=DEMO_MODEL, task="panoptic", actors=1, max_error_fraction=0.5
    )
    assert outcome.totals.images.ok == 12 and outcome.totals.images.error == 1
    assert capfd.readouterr() == ("", "")
    assert ray.is_initialized() and ray.get_runtime_context().get_node_id() == node
    assert settings() == before, "what the caller has set is as it was"

    wanted = m2f_batch.open_run(tmp_path / "run").table(["uri", *ADDED]).to_pylist()
    dataset = ray.data.read_binary_files([row["uri"] for row in wanted], include_paths=True)
    labeled = dataset.map_batches(
        m2f_batch.BatchSegmenter,
        fn_constructor_kwargs={"model": str(DEMO_MODEL), "task": "panoptic", "column": "bytes"},
        batch_format="pyarrow",
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=2,
    )
    found = sorted(labeled.select_columns(["path", *ADDED]).take_all(), key=lambda row: row["path"])
    assert [{"uri": row.pop("path"), **row} for row in found] == wanted
