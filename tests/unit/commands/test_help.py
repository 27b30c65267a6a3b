"""The help of every command is that of ``help.txt``.

``.venv/bin/python tests/unit/commands/test_help.py`` writes it anew."""

import argparse
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from m2f_batch.cli import new_parser
from m2f_batch.commands.shared.keys import config_of, without_address
from m2f_batch.commands.shared.parser import KEYS
from m2f_batch.commands.shared.registry import find_commands
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.segment import SegmentConfig

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
    shown = {name: text.partition("\n\n")[2] for name, text in help_at(120).items()}
    keys = re.compile(f"{KEYS}:.*(?=examples:)", re.DOTALL)
    return {name: keys.sub("", text) if " submit " in name else text for name, text in shown.items()}


def help_at(columns: int) -> dict[str, str]:
    """The help of each command on a terminal of so many columns."""
    with patch.dict(os.environ, COLUMNS=str(columns)):
        return {name: each.format_help() for name, each in parsers("m2f-batch", new_parser(find_commands()))}


def golden() -> str:
    return "\n".join(f"==== {name}\n\n{text}" for name, text in texts().items())


def test_help_is_the_golden_one():
    assert golden() == GOLDEN.read_text(), f"if that is meant: .venv/bin/python {__file__}"


def test_help_shows_nothing_of_how_it_is_made():
    for name, text in texts().items():
        for slip in ("PydanticUndefined", "%%", "%(", "factory", "==SUPPRESS=="):
            assert slip not in text, name


@pytest.mark.parametrize("line", ["demo --help", "demo -h", "demo here -h -q", "demo --task panoptic --hel"])
def test_help_that_is_asked_for_knows_the_defaults(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        new_parser(find_commands()).parse_args(line.split())
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "[DIR]" in said and "[demo-run]" in said and "[panoptic]" in said


def test_every_argument_has_a_meaning_in_words():
    for name, parser in parsers("m2f-batch", new_parser(find_commands())):
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert len((action.help or "").split()) > 1, (name, action.dest)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns: int):
    for name, text in help_at(columns).items():
        wide = [line for line in text.splitlines() if len(line) > columns and len(line.split()) > 1]
        assert wide == [], name


def examples() -> list[tuple[str, str]]:
    return [
        (name, each.line)
        for name, parser in parsers("m2f-batch", new_parser(find_commands()))
        for each in parser.examples
    ]


def test_every_command_has_two_examples():
    counts = Counter(name for name, _ in examples())
    names = [name for name, _ in parsers("m2f-batch", new_parser(find_commands()))]
    assert [name for name in names if counts[name] < 2] == []


@pytest.mark.parametrize(("name", "line"), examples())
def test_an_example_is_a_command_line_of_its_command(name: str, line: str):
    words = shlex.split(line)
    assert line.startswith("m2f-batch ") if name == "m2f-batch" else line.startswith(f"{name} ") or line == name
    if "--help" in words:
        return
    options = new_parser(find_commands()).parse_args(words[1:])
    if hasattr(options, "set"):
        command = find_commands()[getattr(options, "job", options.command)]
        kind = SegmentConfig if command.__name__.endswith("segment") else FinetuneConfig
        config_of(kind, options, without_address(command.KEYS))


if __name__ == "__main__":
    GOLDEN.write_text(golden())
