"""metrics.jsonl and TensorBoard's events while a training goes on, and after it was resumed."""

import json
import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from m2f_batch.runs.held_folder import open_folder
from m2f_batch.train.output import metrics_log
from m2f_batch.train.output.metrics_log import MetricsLog


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard reads: (name, step, value); its records are a length, a checksum, the data, a checksum."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_events_and_lines_are_those_of_the_whole_run(tmp_path):
    place = open_folder(str(tmp_path))
    first = MetricsLog(place, 0)
    for step in (1, 2, 3):
        first.note(step, "train", {"loss": 2.0 ** (4 - step), "time": 100.0 + step})
    first.flush_events()
    assert scalars(tmp_path / "tensorboard") == [("train/loss", 1, 8.0), ("train/loss", 2, 4.0), ("train/loss", 3, 2.0)]
    first.flush()
    again = MetricsLog(place, 2)  # the step after the checkpoint is done, and told, once more
    again.note(3, "train", {"loss": float("nan"), "time": 200.0})
    again.note(3, "validation", {"AP": 0.5})
    again.finish()
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"], line.get("loss")) for line in told] == [
        (1, "train", 8.0),
        (2, "train", 4.0),
        (3, "train", None),
        (3, "validation", None),
    ]
    assert scalars(tmp_path / "tensorboard") == [
        ("train/loss", 1, 8.0),
        ("train/loss", 2, 4.0),
        ("validation/AP", 3, 0.5),
    ]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_lines_are_due_after_a_while(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics_log, "monotonic", lambda: now[0])
    lines = MetricsLog(open_folder(str(tmp_path)), 0)
    assert not lines.is_due()
    now[0] = metrics_log.FLUSH_SECONDS + 1
    assert lines.is_due()
    lines.flush()
    assert not lines.is_due()


def test_lines_are_read_as_they_were_written(tmp_path):
    log = MetricsLog(open_folder(str(tmp_path)), 0)
    log.note(1, "train", {"loss": float("inf"), "learning_rate": 0.5, "time": 7.0})
    log.note(1, "validation", {"AP": 0.0, "AP50": None})
    log.flush()
    lines = metrics_log.lines_of((tmp_path / "metrics.jsonl").read_bytes())
    assert lines == log.lines
    assert [line.figures for line in lines] == [{"learning_rate": 0.5}, {"AP": 0.0}]
    assert lines[0].tree == {"step": 1, "kind": "train", "loss": None, "learning_rate": 0.5, "time": 7.0}
