"""Prints texts without keys (``masking``), and without orders to a terminal."""

import json
import os
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
    """Let ``say`` print nothing but warnings on stdout meanwhile, and no progress be shown."""
    before, _quiet[0] = _quiet[0], is_quiet
    try:
        yield
    finally:
        _quiet[0] = before


def is_quiet() -> bool:
    """Return whether nothing but warnings and errors is wanted."""
    return _quiet[0]


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, by default on stdout, where only warnings are printed while ``is_quiet``.

    Each stays one, because a name of a file or a class may hold a line break.
    """
    if file is None and is_quiet():
        lines = tuple(line for line in lines if line.lstrip().startswith(("warning", "note ")))
    for line in lines:
        print(colored(printable(line).replace("\n", "\\n"), file), flush=True, file=file)


def say_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout: ASCII, and without keys."""
    print(redact(json.dumps(document, indent=2)), flush=True)
