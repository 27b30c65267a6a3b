"""Whole commands without Ray: what it would do on a node of four CPUs is done in this process, unit after unit.

For tests of what a command reads, says and writes. What would cross processes is pickled, and tables are slices of
blocks as from Ray's store. Tests about Ray itself start one.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from ray import cloudpickle

from benchmarks.lib import stubs
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
from m2f_batch.records import ImageRef
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.plan import Unit, Units

NODES = [{"CPU": 4.0}]
_T = TypeVar("_T")


@pytest.fixture
def off_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """``segment`` does all that it does, but for Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(job, "connected", lambda _: nullcontext())
    monkeypatch.setattr(job, "set_data_context", lambda _: None)
    monkeypatch.setattr(job, "on_cluster", _on_cluster)
    monkeypatch.setattr(job, "start_on_ray", _start)
    monkeypatch.setattr(dry_run, "labeled", _Labeled)
    for module in (job, plan_text, dry_run):
        monkeypatch.setattr(module, "present", lambda: NODES)


def _start(flow: Flow, attempt: Attempt, units: Units) -> Started:
    """OUTPUT is opened once the model has loaded."""
    flow = _sent(replace(flow, fence=attempt.fence))
    segmenter = _loaded(flow)
    base = begin(attempt.run, attempt.work)
    run = open_directory(flow.run_uri, flow.fence)

    def stream() -> Generator[DoneUnit, None, None]:
        for unit in units:
            table = label_unit(_prepared(flow, unit, flow.steps.prepare), segmenter)
            yield from commit_unit(_sliced(table), run=run).to_pylist()

    return Started(stream(), lambda: base, None, Slots(flow.resources.device, fetch_threads=flow.fetch_threads))


class _Labeled:
    """Stands for the dataset up to the labels."""

    def __init__(self, units: Units, flow: Flow, gate: None, step: Callable[..., pa.Table]) -> None:
        self._units, self._flow, self._step = units, _sent(flow), step

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        segmenter = _loaded(self._flow)
        for unit in self._units:
            table = _prepared(self._flow, unit, self._step)
            for row in range(table.num_rows):
                yield _sliced(label_unit(table.slice(row, 1), segmenter))


def _loaded(flow: Flow) -> Labeler:
    segmenter = flow.steps.load(flow.actor)
    flow.steps.check(flow.actor)
    return segmenter


def _prepared(flow: Flow, unit: Unit, step: Callable[..., pa.Table]) -> pa.Table:
    return _sliced(step(unit_table(unit), **preparing(flow.actor.labeling, flow.max_pixels, flow.fetch_threads)))


def _sent(thing: _T) -> _T:
    """What another process gets of it."""
    sent: _T = cloudpickle.loads(cloudpickle.dumps(thing))
    return sent


def _sliced(table: pa.Table) -> pa.Table:
    """The same rows, between others in a block that another process has written: of another unit, once prepared."""
    other = stubs.prepare(unit_table(Unit("other", (ImageRef("/other.png", None),))))
    other = other if table.schema == other.schema else table.slice(0, 1)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.concat_tables([other, table, other]).combine_chunks())
    return pa.ipc.open_stream(sink.getvalue()).read_all().slice(1, table.num_rows)


def _on_cluster(function: Callable[[Any], _T], items: Iterable[Any]) -> Iterator[_T]:
    """Each result, of a task in another process."""
    return map(_sent, map(_sent(function), items))
