"""Colors lines on a terminal, by rich. Elsewhere, and where NO_COLOR is set, they stay as they are."""

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Mapping[str, str] = {
    r"^m2f-batch[ a-z-]*:": "bold red",  # why a command was refused or has failed
    r"^(done|verified)\b": "bold green",
    r"^(problem|failed|lost)\b": "bold red",
    r"^[a-z]+(?= {2,}|:? \w* ?step )": "bold",
    r"\bwarning:": "bold yellow",
    r"\b(note|did you mean|for example)\b:?": "cyan",
    r"\b[1-9][\d,]* (error|errors|remaining|problems)\b": "red",
    r"exit code [1-9]\d*": "red",
}


def is_live(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether what is printed on a stream can be written over. NO_COLOR leaves that to who wants no colors."""
    return stream.isatty() and environ.get("TERM") != "dumb"


def colored(line: str, stream: TextIO | None = None) -> str:
    """Return a line as it is to be printed on ``stream`` (stdout), which stays the same where that is no terminal.

    >>> import io
    >>> colored("done    1 in = 1 ok", io.StringIO())
    'done    1 in = 1 ok'
    """
    if not is_live(stream or sys.stdout) or os.environ.get("NO_COLOR"):
        return line
    try:
        from rich.text import Text
    except ModuleNotFoundError:  # the small distribution does without it
        return line
    text = Text(line)
    for pattern, style in STYLES.items():
        text.highlight_regex(re.compile(pattern, re.MULTILINE), style)
    with _console().capture() as captured:
        _console().print(text, soft_wrap=True, end="")
    return captured.get()


@cache
def _console() -> "Console":
    """Return what knows how many colors a terminal has. It prints nothing itself."""
    from rich.console import Console

    return Console(force_terminal=True, highlight=False, legacy_windows=False)
