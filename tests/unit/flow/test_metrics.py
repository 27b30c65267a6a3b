"""Metrics: what is counted for which unit, labels that Ray takes, and silence without Ray."""

import logging
import string
import subprocess
import sys
from collections import Counter

import pytest
from conftest import PROJECT

from m2f_batch.flow.unit.units import DONE_SCHEMA
from m2f_batch.flow.watch import metrics as module
from m2f_batch.flow.watch.metrics import COUNTERS, GAUGES, MAX_LABEL, MAX_REASONS, PREFIX, Metrics, label

UNIT = dict.fromkeys(DONE_SCHEMA.names) | {
    "unit": "0f-00000-of-00001",
    "seconds": [("fetch", 0.5), ("decode", 0.25), ("wait", 0.0)],
    "bytes": 1000,
    "retries": 2,
    "replica": "host:7",
    "ok": 30,
    "error": 2,
    "segments": 90,
    "reasons": [("decode/Truncated", 2)],
}


class Instrument:
    """Stands for Ray's: remembers, and refuses what Ray refuses."""

    def __init__(self, name, description="", tag_keys=()):
        self.name, self.tag_keys, self.values = name, tag_keys, Counter()
        assert description

    def _key(self, tags):
        assert tags.keys() == set(self.tag_keys)
        for value in tags.values():
            value.encode("ascii")
        return tuple(tags[key] for key in self.tag_keys)

    def inc(self, value, tags):
        if value <= 0:
            raise ValueError("value must be >0")
        self.values[self._key(tags)] += value

    def set(self, value, tags):
        self.values[self._key(tags)] = value


@pytest.fixture
def made(monkeypatch):
    """Instruments in place of Ray's, by name without the prefix."""
    made = {
        name: Instrument(PREFIX + name, text, ("run", *keys)) for name, (text, keys) in {**COUNTERS, **GAUGES}.items()
    }
    monkeypatch.setattr(module, "_instruments", lambda: dict(made))
    return made


def values(made):
    return {name: dict(each.values) for name, each in made.items() if each.values}


def test_strangers_are_no_errors(made):
    Metrics("run").add(UNIT | {"ok": 28, "error": 4, "strangers": 3})
    counted = {("run", "ok"): 28, ("run", "error"): 1, ("run", "stranger"): 3}
    assert values(made)["images_total"] == counted


def test_units_add_up(made):
    metrics = Metrics("s3://bucket/labels/")
    metrics.add(UNIT)
    metrics.add(UNIT | {"ok": 32, "error": 0, "reasons": [], "retries": 0, "bytes": None, "seconds": None})
    run = "s3://bucket/labels"
    assert values(made) == {
        "units_total": {(run, "committed"): 2},
        "images_total": {(run, "ok"): 62, (run, "error"): 2},
        "errors_total": {(run, "decode/Truncated"): 2},
        "segments_total": {(run,): 180},
        "stage_seconds_total": {(run, "fetch"): 0.5, (run, "decode"): 0.25},
        "bytes_read_total": {(run,): 1000},
        "retries_total": {(run,): 2},
    }


def test_a_unit_put_off_counts_no_image(made):
    empty = dict.fromkeys(DONE_SCHEMA.names)
    Metrics("out").add(empty | {"transient": "503 SlowDown", "bytes": 10, "retries": 5, "ok": 0, "error": 0})
    assert values(made) == {
        "units_total": {("out", "transient"): 1},
        "bytes_read_total": {("out",): 10},
        "retries_total": {("out",): 5},
    }


def test_state_replaces_and_deaths_count_once(made):
    metrics = Metrics("out")
    metrics.set_state(100, {"fetch": 0.1}, 1)
    metrics.set_state(40, {"fetch": 0.2, "forward": 0.9}, 2, deaths=2)
    metrics.set_state(40, {}, 2, deaths=2)
    metrics.set_state(40, {}, 2, deaths=1)  # whoever counts them began anew
    metrics.set_state(40, {}, 2, deaths=3)
    metrics.succeeded(at=1234.5)
    assert values(made) == {
        "images_remaining": {("out",): 40},
        "replicas": {("out",): 2},
        "busy_ratio": {("out", "fetch"): 0.2, ("out", "forward"): 0.9},
        "unit_deaths_total": {("out",): 3},
        "last_success_timestamp_seconds": {("out",): 1234.5},
    }


def test_times_and_lost_nodes(made):
    metrics = Metrics("out")
    metrics.set_times(12.5, None, None)
    assert values(made) == {"waiting_seconds": {("out",): 12.5}}
    metrics.set_times(0.0, 2000.0, 1500.0)
    for nodes in (2, 2, 5):
        metrics.set_nodes_lost(nodes)
    assert values(made) == {
        "waiting_seconds": {("out",): 0.0},
        "eta_timestamp_seconds": {("out",): 2000.0},
        "deadline_timestamp_seconds": {("out",): 1500.0},
        "nodes_lost_total": {("out",): 5},
    }


def test_reasons_are_bounded(made):
    metrics = Metrics("out")
    for number in range(MAX_REASONS + 50):
        metrics.add(UNIT | {"reasons": [(f"decode/Kind{number}", 2), ("fetch/Denied", 1)]})
    counts = made["errors_total"].values
    assert len(counts) == MAX_REASONS + 1
    assert counts["out", "other"] == 2 * 51  # "fetch/Denied" took one of the places
    assert counts["out", "fetch/Denied"] == MAX_REASONS + 50
    assert counts.total() == 3 * (MAX_REASONS + 50)


def test_a_failing_instrument_stops_the_metrics_and_not_the_run(made, monkeypatch, caplog):
    def fail(value, tags):
        raise RuntimeError("no more")

    monkeypatch.setattr(made["units_total"], "inc", fail)
    metrics = Metrics("out")
    with caplog.at_level(logging.WARNING):
        metrics.add(UNIT)
        metrics.add(UNIT)
        metrics.set_state(1, {"fetch": 1.0}, 1)
    assert values(made) == {}
    assert [record.getMessage() for record in caplog.records] == ["metrics stop here, the run goes on"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/data/out",
        "s3://bucket/labels",
        "übung/日本",
        "new\nline\ttab\0",
        "\udc80",
        "s3://b/" + "x" * 500,
        "ü" * 79,
    ],
)
def test_labels_are_short_printable_ascii(text):
    made = label(text)
    assert len(made) <= MAX_LABEL
    assert set(made) <= set(string.printable) - set("\n\t\r\x0b\x0c")


def test_labels_tell_runs_apart_and_hide_keys():
    long = [label(f"s3://bucket/{number}/" + "x" * 200) for number in range(50)]
    assert len(set(long)) == 50
    assert label("s3://bucket/out") == label("s3://bucket/out/") == "s3://bucket/out"
    assert "hunter22" not in label("s3://me:hunter22@bucket/" + "x" * 200) + label("s3://me:hunter22@bucket/")


def test_the_table_of_the_docstring_is_the_code():
    rows = [line.split(maxsplit=2) for line in module.__doc__.splitlines() if line.strip().startswith("ray_")]
    for table, kind in ((COUNTERS, "counter"), (GAUGES, "gauge")):
        written = {name: rest for name, type_, rest in rows if type_ == kind}
        assert written.keys() == {f"ray_{PREFIX}{name}" for name in table}
        for name, (_, keys) in table.items():
            assert written[f"ray_{PREFIX}{name}"].startswith(", ".join(("run", *keys)) + "  ")
    assert all(name.endswith("_total") for name in COUNTERS)  # else Ray's agent would put it there
    assert not any(name.endswith("_total") for name in GAUGES)


def test_without_a_session_nothing_happens():
    code = f"""
import sys
import m2f_batch.flow.watch.metrics as module
assert "ray" not in sys.modules
metrics = module.Metrics("out")
metrics.add({UNIT!r})
metrics.set_state(1, {{"fetch": 0.5}}, 1, deaths=1)
metrics.succeeded()
import ray
assert metrics._instruments == {{}} and not ray.is_initialized()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
