"""``run.deadline``: what it may be, which moment it means, who keeps it, and when a run says that it will be late."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of

from m2f_batch.config.deadline import deadline_at
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.flow.attempt import reporter as module
from m2f_batch.flow.attempt import run_info
from m2f_batch.flow.attempt.hold_output import held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import decide, read_output_state, work_of
from m2f_batch.flow.attempt.reporter import Reporter
from m2f_batch.flow.job import check
from m2f_batch.flow.watch.busy import Slots
from m2f_batch.flow.watch.lost_nodes import IDLE, LostNodes
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.messages.events import Events
from m2f_batch.runs.directory import RunDirectory

BEGUN = datetime(2026, 11, 29, 22, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("8h", "2026-11-30T06:00:00+00:00"),
        ("1d 12h", "2026-12-01T10:00:00+00:00"),
        ("1h30m", "2026-11-29T23:30:00+00:00"),
        ("90 min", "2026-11-29T23:30:00+00:00"),
        ("0.5h", "2026-11-29T22:30:00+00:00"),
        ("06:00", "2026-11-30T06:00:00+00:00"),
        ("23:15", "2026-11-29T23:15:00+00:00"),
        ("22:00", "2026-11-30T22:00:00+00:00"),
        ("06:00+02:00", "2026-11-30T04:00:00+00:00"),
        ("0:30+02:00", "2026-11-29T22:30:00+00:00"),
        ("6:00Z", "2026-11-30T06:00:00+00:00"),
        ("2026-11-30T06:00", "2026-11-30T06:00:00+00:00"),
        ("2026-11-30 06:00:30+01:00", "2026-11-30T05:00:30+00:00"),
        ("2026-11-30T06:00Z", "2026-11-30T06:00:00+00:00"),
        ("2020-01-01T00:00Z", "2020-01-01T00:00:00+00:00"),
    ],
)
def test_moments(text: str, at: str) -> None:
    assert deadline_at(text, BEGUN).astimezone(UTC).isoformat() == at


def config(value: str, tmp_path: Path, *, in_file: bool) -> SegmentConfig:
    flags = {"input.uri": "i", "output.uri": "o", "model.uri": "m"}
    if not in_file:
        return load_config(SegmentConfig, overrides=[f"run.deadline={value}"], flags=flags)
    (tmp_path / "c.yaml").write_text(f"run: {{deadline: {value}}}\n")
    return load_config(SegmentConfig, file=str(tmp_path / "c.yaml"), flags=flags)


@pytest.mark.parametrize("value", ["", "soon", "0h", "25:00", "06:75", "8", "-3h", "2026-11-30", "99999999999d"])
@pytest.mark.parametrize("in_file", [True, False])
def test_what_is_none(value: str, tmp_path: Path, in_file: bool) -> None:
    if in_file and not value:
        return  # null in YAML, which is the default
    with pytest.raises(UsageError) as error:
        config(value, tmp_path, in_file=in_file)
    assert str(error.value).startswith("run.deadline: ") and "8h, 1d 12h, 90m" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_yaml_makes_of_times(tmp_path: Path) -> None:
    """An unquoted time of day is the number 960 to YAML, and a time a datetime."""
    assert config("16:00", tmp_path, in_file=False).run.deadline == "16:00"
    assert config("'16:00'", tmp_path, in_file=True).run.deadline == "16:00"
    with pytest.raises(UsageError, match=r"run\.deadline: 960 is not allowed \(quote a time of day: '16:00'\)"):
        config("16:00", tmp_path, in_file=True)
    assert config("2026-11-30T06:00:00+01:00", tmp_path, in_file=True).run.deadline == "2026-11-30T06:00:00+01:00"
    assert config("8h", tmp_path, in_file=True).run.deadline == "8h"


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Any]:
    """The work of a command over two files, with what run.json would say."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(b"x")

    def planned(**run: Any) -> Any:
        job = check(config_of(folder, tmp_path / "out", DEMO_MODEL, run=run))
        return SimpleNamespace(job=job, work=work_of(job, read_output_state(job.run), "cpu"))

    return planned


def test_a_killed_run_keeps_its_moment_and_another_key_begins_anew(planned) -> None:
    first = planned(deadline="8h")
    at = datetime.fromisoformat(first.work.info["deadline_at"])
    assert timedelta(hours=7.9) < at - datetime.now(UTC) <= timedelta(hours=8)
    begin(first.job.run, first.work)
    earlier = (at - timedelta(hours=3)).isoformat()
    first.job.run.write_info(first.job.run.read_info() | {"deadline_at": earlier})
    assert planned(deadline="8h").work.info["deadline_at"] == earlier
    assert planned(deadline="9h").work.info["deadline_at"] > at.isoformat()
    assert planned().work.info["deadline_at"] is None
    first.job.run.write_info(first.job.run.read_info() | {"finished_at": "2026-11-20T10:00:00+00:00"})
    assert planned(deadline="8h").work.info["deadline_at"] >= at.isoformat(), "the next night has its own"


def test_an_attempt_begins_when_it_holds_output(planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided may wait long for the lease, and run.json says when the work began."""

    def be(hour: int) -> None:
        monkeypatch.setattr(run_info, "now", lambda: f"2026-11-20T{hour}:00:00+00:00")
        monkeypatch.setattr(run_info, "deadline_at", lambda *_: datetime(2026, 11, 20, hour + 8, tzinfo=UTC))

    def attempt(hour: int, **run: str) -> tuple[str, str]:
        be(10)
        job = planned(**run).job
        decision = decide(job, "cpu")
        be(hour)
        with held(job, decision, "cpu", Events("text")) as attempt:
            begin(attempt.run, attempt.work)
        info = job.run.read_info()
        return info["started_at"], info["deadline_at"]

    first, at = "2026-11-20T12:00:00+00:00", "2026-11-20T20:00:00+00:00"
    assert attempt(12, deadline="8h") == (first, at)
    assert attempt(13, deadline="8h") == (first, at), "a killed run keeps its moments"
    assert attempt(14, deadline="9h") == (first, "2026-11-20T22:00:00+00:00")


class Told:
    """Stands for the metrics: remembers the last of each."""

    def __init__(self, *_: Any) -> None:
        self.times: tuple[float, float | None, float | None] = (-1.0, None, None)
        self.lost = 0

    def set_times(self, *times: Any) -> None:
        self.times = times

    def set_nodes_lost(self, nodes: int) -> None:
        self.lost = nodes


def test_before_the_first_node_comes_a_wait_is_told_and_then_that_it_will_be_late(planned, monkeypatch) -> None:
    monkeypatch.setattr(module, "Metrics", Told)
    monkeypatch.setattr(module, "LATE_SECONDS", 0.0)
    made, events = planned(deadline="1h"), Events()
    run: RunDirectory = made.job.run
    attempt: Any = SimpleNamespace(run=run, work=made.work, events=events)
    state = Reporter(attempt, lambda: None, lambda: 0)
    progress = Progress(100, Slots(), state.refresh, events)
    told: Told = state._metrics  # type: ignore[assignment]
    progress._started -= 1000
    state.refresh(progress)
    waiting, eta, deadline = told.times
    assert waiting == pytest.approx(1000, abs=30) and eta is None
    assert deadline == datetime.fromisoformat(made.work.info["deadline_at"]).timestamp()
    assert b"late" not in events.lines() and not run.holds_run()
    unit = {"transient": None, "seconds": [("forward", 1.0)], "replica": "a", "ok": 10, "error": 0, "segments": 1}
    progress.add(unit | {"reasons": [], "strangers": 0, "retries": 0, "forward": None})
    for _ in range(2):
        state.refresh(progress)
    waiting, eta, _ = told.times
    assert (waiting, eta) == (0.0, pytest.approx(datetime.now(UTC).timestamp() + 9000, abs=300))
    (line,) = [line for line in events.lines().decode().splitlines() if '"event":"late"' in line]
    assert '"level":"warning"' in line and "warning: the run will be 1 h " in line


def test_lost_nodes_are_those_that_died_since_and_not_the_idle(monkeypatch) -> None:
    import ray

    nodes: list[dict[str, Any]] = [{"NodeID": "old", "Alive": False, "DeathReason": 2}]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    lost = LostNodes()
    nodes += [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False, "DeathReason": 1}]
    nodes += [{"NodeID": "c", "Alive": False, "DeathReason": 3}, {"NodeID": "d", "Alive": False, "DeathReason": IDLE}]
    assert lost.count() == 2
    del nodes[2]  # Ray forgets
    assert lost.count() == 2

    def away() -> None:
        raise ConnectionError

    monkeypatch.setattr(ray, "nodes", away)
    assert lost.count() == 2


def test_the_number_of_an_idle_end_is_rays() -> None:
    from ray.core.generated.common_pb2 import NodeDeathInfo

    assert NodeDeathInfo.AUTOSCALER_DRAIN_IDLE == IDLE
