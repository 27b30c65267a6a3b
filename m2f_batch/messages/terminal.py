"""Prints texts without keys (``masking``), and without orders to a terminal."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from m2f_batch.messages.colors import colored
from m2f_batch.messages.masking import redact


def printable(text: str, environ: Mapping[str, str] = os.environ) -> str:
    r"""Redact a text and spell out what would move the cursor of a terminal, color it or change its title.

    >>> print(printable("first line\nbroken\x1b[2Jname\r.jpg", {}))
    first line
    broken\x1b[2Jname\r.jpg
    """
    clean = redact(text, environ)
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in clean)


_quiet = [False]  # of this process


@contextmanager
def quiet(is_quiet: bool) -> Iterator[None]:
    """Let ``say`` print nothing but warnings and errors meanwhile, and no progress be shown."""
    before, _quiet[0] = _quiet[0], is_quiet
    try:
        yield
    finally:
        _quiet[0] = before


def is_quiet() -> bool:
    """Return whether nothing but warnings and errors is wanted."""
    return _quiet[0]


def say(*lines: str, file: TextIO | None = None, is_error: bool = False) -> None:
    """Print lines, by default on stdout.

    While ``is_quiet`` only warnings and notes are printed, and on stderr those that say why the command fails
    (``is_error``). Each line stays one, because a name of a file or a class may hold a line break.
    """
    if is_quiet() and is_error:
        file = sys.stderr
    elif is_quiet():
        lines = tuple(line for line in lines if line.lstrip().startswith(("warning", "note")))
    for line in lines:
        print(colored(printable(line).replace("\n", "\\n"), file), flush=True, file=file)


def say_error(command: str, error: str | None) -> None:
    """Print on stderr why a command has failed, which it has said among other lines unless ``is_quiet``."""
    if error and is_quiet():
        say(f"m2f-batch {command}: {error}", is_error=True)


def say_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout: ASCII, and without keys."""
    print(redact(json.dumps(document, indent=2)), flush=True)
