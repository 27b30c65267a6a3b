"""The help of every command is that of ``help.txt``.

``.venv/bin/python tests/unit/commands/test_help.py`` writes it anew."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from m2f_batch.cli import new_parser
from m2f_batch.commands.shared.registry import find_commands

GOLDEN = Path(__file__).parent / "help.txt"


def parsers(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and all below it, by what is typed."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from parsers(f"{name} {word}", below)


def texts() -> dict[str, str]:
    """The help of each command, less its usage, which Python releases break into lines differently.

    Of a job that is submitted, less the config keys, too: they are those of the command.
    """
    with patch.dict(os.environ, COLUMNS="120"):
        found = {name: each.format_help() for name, each in parsers("m2f-batch", new_parser(find_commands()))}
    shown = {name: text.partition("\n\n")[2] for name, text in found.items()}
    return {name: text.partition("config keys:")[0] if " submit " in name else text for name, text in shown.items()}


def golden() -> str:
    return "\n".join(f"==== {name}\n\n{text}" for name, text in texts().items())


def test_help_is_the_golden_one():
    assert golden() == GOLDEN.read_text(), f"if that is meant: .venv/bin/python {__file__}"


def test_help_shows_nothing_of_how_it_is_made():
    for name, text in texts().items():
        for slip in ("PydanticUndefined", "%%", "%(", "factory", "==SUPPRESS=="):
            assert slip not in text, name


def test_every_argument_has_a_meaning_in_words():
    for name, parser in parsers("m2f-batch", new_parser(find_commands())):
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert len((action.help or "").split()) > 1, (name, action.dest)


if __name__ == "__main__":
    GOLDEN.write_text(golden())
