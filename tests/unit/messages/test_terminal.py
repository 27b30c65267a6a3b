"""``--quiet``: warnings and errors are said, and nothing else."""

import json

import pytest

from m2f_batch.messages.events import Events
from m2f_batch.messages.terminal import is_quiet, quiet, say

LINES = ("done    all of it", "note    the loss is not finite", "        warning: no stuff", "train   step 3 of 9")


def test_warnings_are_said_in_a_quiet_command(capsys: pytest.CaptureFixture[str]):
    with quiet(True):
        say(*LINES)
        assert is_quiet()
    assert capsys.readouterr().out.splitlines() == [LINES[1], LINES[2]]
    with quiet(False):
        say(*LINES)
    assert capsys.readouterr().out.splitlines() == [*LINES] and not is_quiet()


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
