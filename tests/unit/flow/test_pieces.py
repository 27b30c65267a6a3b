"""Pieces of a run's input: which units are in which, what a task makes of them, and how much may wait."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
from ray.data import DataContext

from benchmarks.lib.stubs import StubSegmenter
from m2f_batch.config.segment import ComputeConfig
from m2f_batch.flow import pipeline, workers
from m2f_batch.flow.crashes.gate import Gate
from m2f_batch.flow.crashes.in_flight import DONE
from m2f_batch.flow.engine import results_of
from m2f_batch.flow.pipeline import Flow
from m2f_batch.flow.unit import pieces
from m2f_batch.flow.unit.pieces import UNITS_PER_PIECE, Blocks, apart, each_unit
from m2f_batch.flow.unit.stages import COMMITTED_BEFORE, commit_unit, label_unit
from m2f_batch.flow.unit.unit_names import UnitNames
from m2f_batch.flow.unit.units import DONE_SCHEMA
from m2f_batch.flow.workers import Steps, prepare
from m2f_batch.ray_session.few_waiting import FewWaiting, set_few_waiting
from m2f_batch.ray_session.resources import plan_resources
from m2f_batch.records import ImageRef
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.plan import Unit, Units


def units_of(count: int) -> Units:
    """Units of none, one and two images."""
    refs = [tuple(ImageRef(f"/{unit}-{image}.jpg", str(unit)) for image in range(unit % 3)) for unit in range(count)]
    return Units.of(Unit(f"file-{unit:05d}-of-{count:05d}", refs[unit]) for unit in range(count))


def tasks_of(blocks: list[pa.Table]) -> list[list[str]]:
    """The names of the units that each task gets, as Ray Data cuts blocks into rows."""
    rows = [apart(block).slice(at, 1) for block in blocks for at in range(block.num_rows)]
    return [[done["unit"][0].as_py() for done in each_unit(row, step=lambda table: table)] for row in rows]


@pytest.mark.parametrize("most", [2, 3, 10, 2000])
@pytest.mark.parametrize("count", [1, 5, 9, 100])
def test_each_unit_is_in_one_piece_of_two_at_most(monkeypatch, count: int, most: int):
    monkeypatch.setattr(pieces, "MAX_BLOCKS", most)
    units = units_of(count)
    blocks = [*Blocks(units)]
    tasks = tasks_of(blocks)
    assert [name for task in tasks for name in task] == [unit.name for unit in units]
    assert len(blocks) <= most
    assert max(map(len, tasks)) <= UNITS_PER_PIECE == 2
    made = [
        done for block in blocks for at in range(block.num_rows) for done in each_unit(block.slice(at, 1), step=_same)
    ]
    assert pa.concat_tables(made).to_pylist() == units.part(0, count).to_pylist()


def _same(table: pa.Table) -> pa.Table:
    return table


@pytest.mark.parametrize(
    ("units", "blocks", "per_block", "per_task"),
    [(0, 0, 0, 0), (40, 40, 1, 1), (2000, 2000, 1, 1), (2001, 1001, 1, 2), (8000, 2000, 2, 2), (312_500, 1978, 79, 2)],
)
def test_pieces_hold_more_only_as_runs_grow(units: int, blocks: int, per_block: int, per_task: int):
    cut = [*Blocks(Units.of(Unit(f"u{number}", ()) for number in range(units)))]
    assert len(cut) == blocks
    assert max((block.num_rows for block in cut), default=0) == per_block
    assert max((len(piece) for block in cut for piece in block["units"]), default=0) == per_task
    assert sum(len(piece) for block in cut for piece in block["units"]) == units


def test_names_of_units_that_were_committed():
    names = UnitNames()
    names.add("f" * 32)
    for part in (0, 127, 70_000):
        names.add(f"a-{part:05d}-of-70001")
    assert "f" * 32 in names and "e" * 32 not in names
    assert [part for part in range(200) if f"a-{part:05d}-of-70001" in names] == [0, 127]
    assert "a-70000-of-70001" in names and "a-69999-of-70001" not in names
    assert "a-00000-of-00002" not in names and "a" not in names


@pytest.fixture
def gate(tmp_path) -> Gate:
    return Gate(str(tmp_path / "run"), None, [], 2)  # type: ignore[arg-type]  # nothing is written


def test_the_gate_has_no_unit_made_again_that_was_committed(gate: Gate):
    unit, other, failed = (f"file-{part:05d}-of-00003" for part in range(3))
    assert [gate.begin(name, "prepare") for name in (unit, other, failed)] == [0, 0, 0]
    gate.left(unit, is_committed=True)
    gate.left(failed, is_committed=False)
    assert [gate.begin(name, "prepare") for name in (unit, other, failed)] == [DONE, 1, 1]
    assert gate.begin(unit, "label") == DONE
    gate.drain()
    assert gate.begin(unit, "prepare") is None
    assert gate.deaths() == 2, "a unit that is done is not begun again"


def test_a_unit_that_was_committed_is_not_fetched_again(gate: Gate, monkeypatch, tmp_path):
    units = units_of(4).part(0, 4)
    gate.left("file-00002-of-00004", is_committed=True)
    fetched = []

    def fetch(table: pa.Table, **_: object) -> pa.Table:
        fetched.append(table["unit"][0].as_py())
        return workers.skipped_unit(table, "fetched")

    monkeypatch.setattr(workers, "answer_of", lambda method, *arguments: method(*arguments))
    handle = SimpleNamespace(begin=gate.begin, end=SimpleNamespace(remote=gate.end))
    options = {"gate": handle, "first": "", "actor": None, "steps": Steps(prepare=fetch)}
    made = [prepare(units.slice(at, 1), **options) for at in range(4)]
    assert fetched == ["file-00000-of-00004", "file-00001-of-00004", "file-00003-of-00004"]
    assert [row["transient"][0].as_py() for row in made] == ["fetched", "fetched", COMMITTED_BEFORE, "fetched"]
    stub = StubSegmenter(0.0, None)
    done = commit_unit(label_unit(made[2], stub), run=open_directory(str(tmp_path / "run")))
    assert done.schema.equals(DONE_SCHEMA)
    dataset = SimpleNamespace(iter_batches=lambda **_: [done, commit_unit(label_unit(made[3], stub), run=None)])  # type: ignore[arg-type]  # no run
    assert [unit["transient"] for unit in results_of(dataset)] == ["fetched"]  # type: ignore[arg-type]  # iterates only
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("nodes", "compute", "may_grow", "starts_nodes", "is_tried"),
    [
        ([{"CPU": 4}], {}, False, False, False),
        ([{"CPU": 1}], {"device": "cpu"}, True, False, False),
        ([{"CPU": 1}], {"device": "cpu"}, True, True, True),
        ([{}], {"device": "cpu"}, True, False, True),
        ([{"CPU": 4, "GPU": 1}], {}, False, False, True),
    ],
)
def test_a_task_tries_the_model_where_replicas_may_wait_for_their_node(
    nodes, compute, may_grow, starts_nodes, is_tried, gate: Gate, monkeypatch
):
    """So a run is in storage, and `status` sees it, before the first replica has a node."""
    resources = plan_resources(ComputeConfig(**compute), nodes, may_grow=may_grow, starts_nodes=starts_nodes)
    tried, built = [], {}
    monkeypatch.setattr(pipeline, "labeled", lambda units, flow, gate, step, options, then: built.update(options))
    monkeypatch.setattr(workers, "see_it_load", lambda settings, steps: tried.append("loaded"))
    monkeypatch.setattr(workers, "answer_of", lambda method, *arguments: method(*arguments))
    opening = SimpleNamespace(remote=lambda: tried.append("opened"))
    handle = SimpleNamespace(begin=gate.begin, end=SimpleNamespace(remote=gate.end), open=opening)
    steps = Steps(prepare=lambda table: workers.skipped_unit(table, "fetched"))
    units = units_of(3)
    pipeline.build(units, Flow("", None, resources, 1, 1, steps=steps), handle)  # type: ignore[arg-type]  # stand-ins
    for at in range(3):
        prepare(units.part(at, 1), **built)
    assert tried == (["loaded", "opened"] if is_tried else [])


def policy(waiting: int, working: int) -> tuple[FewWaiting, SimpleNamespace]:
    """The rule over two operators: so many blocks wait between them, and the second works on so many."""
    taker = SimpleNamespace(output_dependencies=[], num_active_tasks=lambda: working)
    topology = {id(taker): SimpleNamespace(total_enqueued_input_blocks=lambda: waiting)}

    class Topology(dict[int, SimpleNamespace]):
        def __getitem__(self, op: object) -> SimpleNamespace:
            return topology[id(op)]

    maker = SimpleNamespace(output_dependencies=[taker], num_active_tasks=lambda: 1)
    return FewWaiting(DataContext.get_current(), Topology(), None), maker


@pytest.mark.parametrize(
    ("waiting", "working", "may"),
    [(0, 0, True), (3, 0, True), (4, 0, False), (4, 5, True), (5, 5, False), (63, 64, True), (64, 64, False)],
)
def test_no_more_is_begun_than_is_soon_taken(waiting: int, working: int, may: bool):
    rule, maker = policy(waiting, working)
    assert rule.can_add_input(maker) is may  # type: ignore[arg-type]  # asks no more of it
    (taker,) = maker.output_dependencies
    assert rule.can_add_input(taker)


def test_the_rule_is_beside_those_of_ray():
    context = DataContext.get_current().copy()
    set_few_waiting(context)
    names = [kind.__name__ for kind in context.get_config("backpressure_policies.enabled")]
    assert names == [
        "ConcurrencyCapBackpressurePolicy",
        "ResourceBudgetBackpressurePolicy",
        "DownstreamCapacityBackpressurePolicy",
        "FewWaiting",
    ]
