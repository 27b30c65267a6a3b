"""Finds the commands: each file of ``m2f_batch/commands`` is one, and no table lists them."""

import argparse
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from m2f_batch.commands.shared.parser import Example, Parser
from m2f_batch.members import modules_of

if TYPE_CHECKING:
    from m2f_batch.submit.jobs import Job

    Parsers = argparse._SubParsersAction[Parser]


class Command(Protocol):
    """A module ``m2f_batch.commands.<name>``. A hyphen in the command's name is an underscore in the file's.

    ``run`` imports what is heavy, because all commands are loaded wherever one is. A command may have more: a
    ``DESCRIPTION``, where the summary does not say it all, ``EXAMPLES`` for its help, and ``CLIENT``, the requirement
    of the small distribution that has the command, too.
    """

    SUMMARY: str

    def add_arguments(self, parser: Parser) -> None:
        """Declare what can be typed behind the command's name."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, print what came of it, and return the exit code."""


@runtime_checkable
class JobCommand(Command, Protocol):
    """A command that ``submit`` can send to a cluster. It may have ``add_job_arguments``, beside those of its own."""

    def job(self, options: argparse.Namespace) -> "Job":
        """Return what is submitted."""


def find_commands() -> dict[str, Command]:
    """Return all commands by the names that users type. Raises RunError, which names a file that is no command.

    >>> "convert-checkpoint" in find_commands()
    True
    """
    found = modules_of("m2f_batch.commands", "SUMMARY", "add_arguments", "run")
    return {name.replace("_", "-"): cast(Command, module) for name, module in found.items()}


def takes_result(name: str) -> bool:
    """Tell whether there is a command ``name`` that has ``--result``, itself or in one of its subcommands.

    >>> takes_result("submit"), takes_result("status")
    (True, False)
    """
    command = find_commands().get(name)
    if command is None:
        return False
    parser = Parser(add_help=False)
    command.add_arguments(parser)
    return _has_result(parser)


def _has_result(parser: argparse.ArgumentParser) -> bool:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return "--result" in parser._option_string_actions or any(
        _has_result(each) for action in below for each in action.choices.values()
    )


def add_command(
    parsers: "Parsers", name: str, command: Command, conflicts: str = "error", *, has_arguments: bool = True
) -> Parser:
    """Add the parser of one command to those of a command line, with ``conflicts`` as its ``conflict_handler``."""
    described = getattr(command, "DESCRIPTION", f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.")
    parser = parsers.add_parser(name, help=command.SUMMARY, description=described, conflict_handler=conflicts)
    if has_arguments:
        parser.examples = [Example(*each) for each in getattr(command, "EXAMPLES", ())]
        command.add_arguments(parser)
        add_quiet(parser)
    return parser


def add_quiet(parser: Parser) -> None:
    """Add ``--quiet`` to a command, unless it has commands below it, which have it themselves."""
    if not parser.commands:
        parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")
