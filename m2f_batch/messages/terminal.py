"""Prints texts without keys (``masking``), and without orders to a terminal."""

import json
import os
from collections.abc import Mapping
from typing import Any, TextIO

from m2f_batch.messages.masking import redact


def printable(text: str, environ: Mapping[str, str] = os.environ) -> str:
    r"""Redact a text and spell out what would move the cursor of a terminal, color it or change its title.

    >>> print(printable("first line\nbroken\x1b[2Jname\r.jpg", {}))
    first line
    broken\x1b[2Jname\r.jpg
    """
    clean = redact(text, environ)
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in clean)


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, by default on stdout. Each stays one, because a name of a file or a class may hold a line break."""
    for line in lines:
        print(printable(line).replace("\n", "\\n"), flush=True, file=file)


def say_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout: ASCII, and without keys."""
    print(redact(json.dumps(document, indent=2)), flush=True)
