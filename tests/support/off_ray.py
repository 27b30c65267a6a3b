"""Whole commands without Ray: what it would do on a node of four CPUs is done in this process, unit after unit.

For tests of what a command reads, says and writes. Those about Ray, or about what crosses its processes, start one.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from m2f_batch.flow import dry_run, job
from m2f_batch.flow.attempt import plan_text
from m2f_batch.flow.attempt.follow import Started
from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.pipeline import Flow
from m2f_batch.flow.unit.labeler import Labeler
from m2f_batch.flow.unit.stages import commit_unit, label_unit, preparing, unit_table
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.busy import Slots
from m2f_batch.runs.plan import Unit, Units

NODES = [{"CPU": 4.0}]


@pytest.fixture
def off_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """``segment`` does all that it does, but for Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(job, "connected", lambda _: nullcontext())
    monkeypatch.setattr(job, "set_data_context", lambda _: None)
    monkeypatch.setattr(job, "on_cluster", map)
    monkeypatch.setattr(job, "start_on_ray", _start)
    monkeypatch.setattr(dry_run, "labeled", _Labeled)
    for module in (job, plan_text, dry_run):
        monkeypatch.setattr(module, "present", lambda: NODES)


def _start(flow: Flow, attempt: Attempt, units: Units) -> Started:
    """OUTPUT is opened once the model has loaded."""
    segmenter = _loaded(flow)
    base = begin(attempt.run, attempt.work)

    def stream() -> Generator[DoneUnit, None, None]:
        for unit in units:
            table = label_unit(_prepared(flow, unit, flow.steps.prepare), segmenter)
            yield from commit_unit(table, run=attempt.run).to_pylist()

    return Started(stream(), lambda: base, None, Slots(flow.resources.device, fetch_threads=flow.fetch_threads))


class _Labeled:
    """Stands for the dataset up to the labels."""

    def __init__(self, units: Units, flow: Flow, gate: None, step: Callable[..., pa.Table]) -> None:
        self._units, self._flow, self._step = units, flow, step

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        segmenter = _loaded(self._flow)
        for unit in self._units:
            table = _prepared(self._flow, unit, self._step)
            for row in range(table.num_rows):
                yield label_unit(table.slice(row, 1), segmenter)


def _loaded(flow: Flow) -> Labeler:
    segmenter = flow.steps.load(flow.actor)
    flow.steps.check(flow.actor)
    return segmenter


def _prepared(flow: Flow, unit: Unit, step: Callable[..., pa.Table]) -> pa.Table:
    return step(unit_table(unit), **preparing(flow.actor.labeling, flow.max_pixels, flow.fetch_threads))
