"""Colors stand on terminals alone, and change no text."""

import io
import re

import pytest

from m2f_batch.messages import colors
from m2f_batch.messages.colors import colored

LINES = [
    "done    25 in = 24 ok + 1 error; 142 segments in 15 s (1.6 images/s)",
    "m2f-batch segment: --modle: is no option; did you mean --model?",
    "        warning: nothing says which labels are stuff",
    "images  2 listed = 1 ok + 1 error + 0 remaining; 3 skipped, 2 duplicates",
    "a [bold]name[/bold] of a class, and \\[brackets]",
    "x" * 500,
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colors._console.cache_clear()
    return Terminal()


@pytest.mark.parametrize("line", LINES)
def test_a_colored_line_is_the_same_line(line: str, terminal: Terminal):
    assert re.sub(r"\x1b\[[\d;]*m", "", colored(line, terminal)) == line


def test_what_matters_is_colored(terminal: Terminal):
    red, green, yellow = "\x1b[31m", "\x1b[1;32m", "\x1b[1;33m"
    assert colored(LINES[0], terminal).startswith(f"{green}done") and f"{red}1 error" in colored(LINES[0], terminal)
    assert colored(LINES[1], terminal).startswith("\x1b[1;31mm2f-batch segment:")
    assert f"{yellow}warning:" in colored(LINES[2], terminal)
    assert red not in colored("images  2 ok + 0 error", terminal)


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_none_has_none(variable: str, value: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)
    assert colored(LINES[0], terminal) == LINES[0]


def test_a_file_and_a_pipe_have_none():
    assert colored(LINES[0], io.StringIO()) == LINES[0]
