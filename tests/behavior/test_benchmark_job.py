"""The part of the benchmarks that compares whole jobs, at tiny size with the demo model: every way runs and agrees."""

from contextlib import contextmanager

import pytest
from conftest import DEMO_MODEL, LONG

from benchmarks.parts import gpu, job


@contextmanager
def demo_model(size):
    yield DEMO_MODEL


@pytest.fixture
def small(monkeypatch):
    """The demo model in place of a Swin-T."""
    monkeypatch.setattr(job, "random_model", demo_model)
    monkeypatch.setattr(gpu, "random_model", demo_model)


@LONG
def test_all_ways_run_and_the_job_gives_the_rows_of_one_process(small):
    lines, said = job.measure(job.Size(images=4, peer_images=2, edge=64, repetitions=1), "cpu", "fp32")
    assert [line["way"] for line in lines] == [job.JOB, job.BOTH, job.FORWARD, job.PIPELINE, job.LOOP]
    assert "start-up" in said[0]
    assert "4 rows" in said[1]
    assert "byte for byte" in said[1]


def test_precisions_are_compared():
    lines = gpu.compare_precisions("cpu", 2)
    assert [line["task"] for line in lines] == ["instance", "panoptic", "semantic"]
    assert all(line["matched"] > 0 for line in lines)
