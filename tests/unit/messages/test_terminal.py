"""``--quiet``: warnings and errors are said, and nothing else."""

import json
import sys

import pytest

from m2f_batch.messages.events import Events
from m2f_batch.messages.terminal import is_quiet, quiet, say, say_error

LINES = ("done    all of it", "note    the loss is not finite", "        warning: no stuff", "train   step 3 of 9")


def test_warnings_are_said_in_a_quiet_command(capsys: pytest.CaptureFixture[str]):
    with quiet(True):
        say(*LINES)
        say(*LINES, file=sys.stderr)
        assert is_quiet()
    said = capsys.readouterr()
    assert said.out.splitlines() == said.err.splitlines() == [LINES[1], LINES[2]]
    with quiet(False):
        say(*LINES)
    assert capsys.readouterr().out.splitlines() == [*LINES] and not is_quiet()


def test_why_a_quiet_command_fails_is_said_on_stderr(capsys: pytest.CaptureFixture[str]):
    with quiet(True):
        say(*LINES, is_error=True)
        say_error("segment", "too many errors")
    assert capsys.readouterr() == ("", "\n".join([*LINES, "m2f-batch segment: too many errors", ""]))
    say(*LINES, is_error=True)
    say_error("segment", "too many errors")  # is said in the lines
    assert capsys.readouterr() == ("\n".join([*LINES, ""]), "")


@pytest.mark.parametrize("log", ["text", "json"])
def test_events_are_kept_all_the_same(log: str):
    shown: list[str] = []
    events = Events(log, show=shown.append)
    with quiet(True):
        events.say("done    all of it", "done")
        events.say("        warning: no stuff", "plan")
        events.emit("deaths", count=1)
    kept = [json.loads(line) for line in events.lines().splitlines()]
    assert [(line["event"], line["level"]) for line in kept] == [
        *(("done", "info"), ("plan", "warning"), ("deaths", "warning"))
    ]
    if log == "json":
        assert [json.loads(line)["event"] for line in shown] == ["plan", "deaths"]
    else:
        assert shown == ["        warning: no stuff"]


def test_it_ends_with_the_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KeyError), quiet(True):
        raise KeyError
    assert not is_quiet()
