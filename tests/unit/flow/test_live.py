"""The table of a run on a terminal, and where there is none."""

import io
import re
import sys

import pytest
from rich.console import Console

from m2f_batch.flow.watch.busy import STAGES, Slots
from m2f_batch.flow.watch.live import State, rows_of
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.messages.events import Events
from m2f_batch.messages.live import LiveTable, table_of
from m2f_batch.messages.terminal import quiet

UNIT = {"transient": None, "ok": 3, "error": 1, "segments": 5, "reasons": [], "replica": "a:1"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(state: State) -> list[str]:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(table_of(rows_of(state)))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_it_says_how_far_a_run_is_and_what_it_waits_for():
    shares = {"fetch": 0.1, "decode": 0.2, "forward": 0.97, "postprocess": 0.08, "write": 0.01, "wait": 3.0}
    lines = drawn(State(1200, 4800, 3, "85.3 images/s  42 s left", shares, "the model is the bottleneck: more GPUs"))
    assert lines[0].startswith("images") and lines[0].endswith("1,200 of 4,800  85.3 images/s  42 s left")
    assert lines[1].split() == ["errors", "3"]
    assert [line.split()[0] for line in lines[2:-1]] == [*STAGES]
    assert [line.split("  ")[-1].strip() for line in lines[2:-1]] == [
        *("10 % busy", "20 % busy", "97 % busy", "8 % busy", "1 % busy")
    ]
    assert lines[-1] == "the model is the bottleneck: more GPUs"


def test_before_the_first_unit_it_is_one_line():
    (line,) = drawn(State(0, 5, 0, "0.0 images/s  starting", {}, ""))
    assert line.split()[0] == "images" and line.endswith("0 of 5  0.0 images/s  starting")


def progress(events: Events) -> Progress:
    return Progress(8, Slots(), lambda progress: None, events)


@pytest.mark.parametrize(
    ("is_shown", "log", "is_quiet", "term", "is_drawn"),
    [
        (True, "text", False, "xterm", True),
        (True, "json", False, "xterm", False),
        (True, "text", True, "xterm", False),
        (True, "text", False, "dumb", False),
        (False, "text", False, "xterm", False),
    ],
)
def test_a_terminal_alone_has_it(
    is_shown: bool, log: str, is_quiet: bool, term: str, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", term)
    with quiet(is_quiet), progress(Events(log, show=(lambda line: None) if is_shown else None)) as run:
        run.add({**UNIT, "seconds": [("forward", 1.0)]})
        if run._table is not None:
            run._table._live.refresh()
    said = terminal.getvalue()
    assert ("4 of 8" in said and "errors" in said and "\x1b[" in said) if is_drawn else said == ""


def test_the_terminal_is_as_it_was_before_anything_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    terminal, printed = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setenv("TERM", "xterm")
    run = progress(Events(show=lambda line: None)).__enter__()
    assert sys.stdout is not printed

    def interrupted() -> None:
        raise KeyboardInterrupt

    join = run._thread.join
    monkeypatch.setattr(run._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.__exit__()
    join()
    shown, hidden = "\x1b[?25h", "\x1b[?25l"
    assert terminal.getvalue().rindex(shown) > terminal.getvalue().rindex(hidden)
    assert sys.stdout is printed and sys.stderr is terminal


@pytest.mark.parametrize("no_color", ["", "1"])
def test_who_wants_no_color_has_a_plain_table(no_color: str, monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    with progress(Events(show=lambda line: None)) as run:
        run.add({**UNIT, "seconds": [("forward", 1.0)]})
        run._table._live.refresh()
    said = terminal.getvalue()
    assert "4 of 8" in said and "\x1b[?25l" in said  # drawn, and drawn over
    assert bool(re.search(r"\x1b\[(\d+;)*3[0-7]m", said)) is not bool(no_color)


LINE = "\x1b[1mthis follows it:\x1b[0m\tm2f-batch submit follow labels-tonight --address http://" + "x" * 90


def test_lines_stand_above_it_as_they_are(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    screen = Console(file=terminal, force_terminal=True, width=40)
    table = LiveTable(lambda: rows_of(State(1, 2, 0, "", {}, "")), screen)
    table.start()
    assert sys.stdout.isatty()
    print(LINE[:20], end="")
    print(LINE[20:])
    print("two\nlines and the beginning of ", end="", flush=True)
    seen = terminal.getvalue()
    table.stop()
    assert f"{LINE}\n" in seen and "two\n" in seen and "beginning" not in seen
    assert seen.index(LINE) < seen.rindex("1 of 2")  # drawn anew below them
    assert terminal.getvalue().endswith("lines and the beginning of ") and sys.stdout is terminal


def test_what_is_printed_to_a_file_meanwhile_gets_there(capsys: pytest.CaptureFixture[str]):
    screen = Console(file=Terminal(), force_terminal=True, width=80)
    table = LiveTable(lambda: rows_of(State(1, 2, 0, "", {}, "")), screen)
    table.start()
    print("a line of the log")
    table.stop()
    assert capsys.readouterr().out == "a line of the log\n"
    assert "a line of the log" not in screen.file.getvalue() and "1 of 2" in screen.file.getvalue()
