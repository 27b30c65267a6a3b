"""The structured log: what a line says, what is kept when there are too many, what a terminal sees."""

import io
import json
import logging
import subprocess
import sys
import threading
from contextlib import redirect_stdout

import pytest
from conftest import PROJECT

from m2f_batch.messages.events import RESERVED, STATE, Events, print_line

MOMENT = 1795273445.1234  # 2026-11-21 15:04:05.1234 UTC


def read(data: bytes) -> list[dict]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def printed(log, *says) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        events = Events(log, clock=lambda: MOMENT, show=print_line)
        for say in says:
            say(events)
    return out.getvalue()


def test_a_line_says_when_what_and_who():
    events = Events(clock=lambda: MOMENT, show=print_line)
    events.emit("start", images=3)
    events.bind("abc", 2)
    events.emit("end", reasons={"decode/Empty": 1}, uri="s3://b/ü\n")
    first, second = read(events.lines())
    assert list(first)[:7] == ["time", "level", "event", "run_id", "attempt", "host", "pid"]
    assert first | {"host": 0, "pid": 0} == {
        "time": "2026-11-21T15:04:05.123+00:00",
        "level": "info",
        "event": "start",
        "run_id": None,
        "attempt": None,
        "host": 0,
        "pid": 0,
        "images": 3,
    }
    assert (second["run_id"], second["attempt"], second["reasons"]) == ("abc", 2, {"decode/Empty": 1})
    assert second["uri"] == "s3://b/ü\n"
    assert isinstance(first["pid"], int)
    assert first["host"]


def test_every_line_has_a_level():
    events = Events(show=print_line)
    events.say("plan    3 images", "plan")
    events.say("warning: /out is on storage without conditional writes", "plan")
    events.emit("deaths", units_begun_again=2)
    events.emit("log", level="error", logger="ray", message="warning of a library")
    events.failed(RuntimeError("lost"))
    events.failed(KeyboardInterrupt())
    levels = [(line["event"], line["level"]) for line in read(events.lines())]
    assert levels == [
        ("plan", "info"),
        ("plan", "warning"),
        ("deaths", "warning"),
        ("log", "error"),
        ("failed", "error"),
        ("failed", "warning"),
    ]


@pytest.mark.parametrize("name", sorted(RESERVED - {"event"}))
def test_fields_may_not_hide_ours(name):
    events = Events(show=print_line)
    with pytest.raises(ValueError, match=name):
        events.emit("x", **{name: 1})
    with pytest.raises(ValueError, match="event"):
        events.emit("x", **{"event": "y"})
    assert events.lines() == b""


def test_text_runs_show_the_text_and_keep_the_event(capsys):
    events = Events("text", show=print_line)
    events.say("3 of 7 images\n  busy", STATE, done=3)
    events.emit("unit", unit="u")
    assert capsys.readouterr().out == "3 of 7 images\n  busy\n"
    assert [(line["event"], line.get("message"), line.get("done")) for line in read(events.lines())] == [
        ("state", "3 of 7 images\n  busy", 3),
        ("unit", None, None),
    ]


def test_json_runs_show_the_event_alone(capsys):
    events = Events("json", show=print_line)
    events.say("3 of 7 images\n  busy", STATE, done=3)
    events.say("", "blank")
    events.emit("unit", unit="\udc80 as a file's name may be")
    out = capsys.readouterr().out
    assert out.encode("ascii") == events.lines()
    assert [line["event"] for line in read(out.encode())] == ["state", "blank", "unit"]


@pytest.mark.parametrize("log", ["text", "json"])
def test_no_key_gets_out(log, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    kept = []

    def speak(events):
        events.say("with wJalrXUtnFEMI/K7MDENG at https://me:hunter22@host", "x", at=["wJalrXUtnFEMI/K7MDENG"])
        events.emit("y", key={"AKIAIOSFODNN7EXAMPLE": "s3://me:hunter22@b"}, hf_token="short")
        kept.append(events.lines().decode())

    for text in (printed(log, speak), *kept):
        assert text
        assert not [part for part in ("K7MDENG", "hunter22", "IOSFODNN", "short") if part in text]


def test_the_oldest_state_lines_go_first_and_are_counted():
    events = Events(max_bytes=4000, show=print_line)
    for number in range(100):
        events.emit(STATE, number=number)
        if number % 40 == 0:
            events.emit("claimed", number=number)
    dropped, *kept = read(events.lines())
    states = [line["number"] for line in kept if line["event"] == STATE]
    assert [line["number"] for line in kept if line["event"] == "claimed"] == [0, 40, 80]
    assert states == list(range(100 - len(states), 100))
    assert 0 < len(states) < 100
    assert (dropped["event"], dropped["state_lines"], dropped["other_lines"]) == ("dropped", 100 - len(states), 0)
    order = [(line["number"], line["event"] != STATE) for line in kept]
    assert order == sorted(order)


def test_without_state_lines_the_oldest_others_go():
    events = Events(max_bytes=2000, show=print_line)
    for number in range(50):
        events.emit("unit", number=number)
    dropped, *kept = read(events.lines())
    assert [line["number"] for line in kept] == list(range(50 - len(kept), 50))
    assert (dropped["state_lines"], dropped["other_lines"]) == (0, 50 - len(kept))
    assert sum(len(json.dumps(line, separators=(",", ":"))) for line in kept) <= 2000


def test_a_line_larger_than_the_log_is_dropped_itself():
    events = Events(max_bytes=500, show=print_line)
    events.emit("huge", message="x" * 5000)
    events.emit("small")
    assert [line["event"] for line in read(events.lines())] == ["dropped", "small"]


def test_what_was_written_is_not_new_until_something_happens():
    events, written = Events(show=print_line), []
    assert not events.is_new_since_last_write
    events.save(written.append)
    assert written == []
    events.emit("a")
    assert events.is_new_since_last_write
    events.save(written.append)
    events.save(written.append)
    assert written == [events.lines()]
    assert not events.is_new_since_last_write
    events.emit("b")

    def fail(data):
        raise OSError

    with pytest.raises(OSError):
        events.save(fail)
    assert events.is_new_since_last_write
    events.save(lambda data: (written.append(data), events.emit("while it was written")))
    assert events.is_new_since_last_write
    assert [line["event"] for line in read(written[-1])] == ["a", "b"]


def test_threads_write_whole_lines(capsys):
    events = Events("json", show=print_line)

    def many(name):
        for number in range(200):
            events.emit("x", name=name, number=number)

    threads = [threading.Thread(target=many, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = read(capsys.readouterr().out.encode())
    assert len(lines) == 800
    assert all([line["number"] for line in lines if line["name"] == name] == list(range(200)) for name in range(4))
    assert lines == read(events.lines())


ROUTED = """
import logging, sys, threading, warnings
from m2f_batch.messages.events import Events, print_line, route_logging
early = logging.getLogger("early")
early.addHandler(logging.StreamHandler())
proud = logging.getLogger("proud")
proud.addHandler(logging.StreamHandler(sys.stdout))
proud.propagate = False
filed = logging.FileHandler(sys.argv[2])
proud.addHandler(filed)
events = Events(sys.argv[1], show=print_line)
route_logging(events)
late = logging.getLogger("late")
late.addHandler(logging.StreamHandler())
route_logging(events)
early.warning("one %s", "AKIAIOSFODNN7EXAMPLE")
proud.error("two")
late.warning("three")
logging.getLogger("botocore").info("not said")
logging.warning("bad %d", "arguments")
warnings.warn("four")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("x").exception("five")
thread = threading.Thread(target=lambda: {}["six"])
thread.start()
thread.join()
raise RuntimeError("seven at s3://me:hunter22@b")
"""


def route(log, tmp_path):
    command = [sys.executable, "-c", ROUTED, log, str(tmp_path / "log")]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=120)


def test_in_a_json_run_python_prints_nothing_but_events(tmp_path):
    done = route("json", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = read(done.stdout.encode())
    said = [(line["event"], line.get("logger"), line["message"].split("\n")[0]) for line in lines]
    assert [each for each in said if each[1] != "py.warnings"] == [
        ("log", "early", "one AKIA***"),
        ("log", "proud", "two"),
        ("log", "late", "three"),
        ("log", "root", "bad %d"),
        ("log", "x", "five"),
        ("crash", None, "'six'"),
        ("crash", None, "seven at s3://***:***@b"),
    ]
    (warned,) = [line for line in lines if line.get("logger") == "py.warnings"]
    assert "UserWarning: four" in warned["message"]
    assert [line["level"] for line in lines[:2]] == ["warning", "error"]
    assert "ZeroDivisionError" in next(line["traceback"] for line in lines if line["message"] == "five")
    assert (lines[-1]["type"], "hunter22" in done.stdout) == ("RuntimeError", False)
    assert (tmp_path / "log").read_text() == "two\n"


def test_in_a_text_run_logging_is_left_alone(tmp_path):
    done = route("text", tmp_path)
    assert done.stdout == "two\n"
    assert "one AKIAIOSFODNN7EXAMPLE\n" in done.stderr
    assert "Traceback" in done.stderr
    assert logging.getLogger().level == logging.WARNING
