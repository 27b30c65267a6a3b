"""Completes words in bash, zsh and fish, by argcomplete: the shell asks this command at each TAB."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from m2f_batch.config.loading import fields_of
from m2f_batch.config.ranges import choices_of
from m2f_batch.config.section import Section

SHELLS = ("bash", "zsh", "fish")
OPTION = "--print-completion"
ASKED = "_ARGCOMPLETE"  # is set where a shell asks


def is_asked() -> bool:
    """Return whether a shell asks which words fit, and nothing is to be run."""
    return ASKED in os.environ


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell the shell which words fit, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser)


def offers(action: argparse.Action, words: Callable[[], Iterable[str]]) -> None:
    """Let ``words`` be offered as values of an option."""
    action.completer = lambda **_: [*words()]  # type: ignore[attr-defined]  # where argcomplete looks


def key_words(config: type[Section]) -> list[str]:
    """Return what may stand behind ``--set``: keys, with their values where these are few."""
    words = []
    for key, field in fields_of(config):
        values = choices_of(field) or (["true", "false"] if field.annotation is bool else [""])
        words += [f"{key}={value}" for value in values]
    return words


class PrintCompletion(argparse.Action):
    """Prints what a shell's start file takes, and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, choices=SHELLS, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """Print the script of a shell."""
        from argcomplete.shell_integration import shellcode

        sys.stdout.write(shellcode(["m2f-batch"], shell=arguments[1]))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the script."""
    text = f"print what completes words in a shell ({', '.join(SHELLS)}), for its start file"
    parser.add_argument(OPTION, action=PrintCompletion, metavar="SHELL", help=text)
