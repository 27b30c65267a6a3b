"""Runs one command: parses the command line, calls the command, and answers with its exit code.

Ctrl-C and SIGTERM end a command with 130 (see ``signals`` for what a run finishes before).
"""

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from m2f_batch.commands.shared.completion import add_completion, answer, is_asked
from m2f_batch.commands.shared.parser import Example, Parser
from m2f_batch.commands.shared.registry import Command, add_command, find_commands, takes_result
from m2f_batch.errors import CommandError, RunError, TransientError, UsageError
from m2f_batch.installed import check_installation, is_missing, what_is_missing, what_to_install
from m2f_batch.messages.colors import colored
from m2f_batch.messages.masking import redact
from m2f_batch.messages.notes import notes_to
from m2f_batch.messages.terminal import printable, quiet, say
from m2f_batch.processes import let_threads_sleep
from m2f_batch.result import Result, tell
from m2f_batch.signals import STOPPED
from m2f_batch.version import VERSION

# what is done, and the line that does it
EXAMPLES = (
    ("label drawn scenes with the bundled model, without network, in a minute", "m2f-batch demo"),
    ("show all that a command takes, with examples", "m2f-batch segment --help"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is one message and exit code 2, never a traceback."""
    let_threads_sleep()
    signal.signal(signal.SIGTERM, _stop)
    sys.excepthook = _on_bug
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    result = Result(given, takes_result)
    try:
        code = _run(given, result)
    except BaseException as error:  # argparse's, or a bug
        status = error.code if isinstance(error, SystemExit) else None
        _end(result, status if isinstance(status, int) else RunError.exit_code)
        raise
    _end(result, code)
    return code


def new_parser(commands: Mapping[str, Command], typed: str = "") -> Parser:
    """Return the parser of the whole command line, which puts the name of the command into ``command``.

    Where the command that was ``typed`` is known, the others are only named, because their arguments take time to make.
    """
    parser = Parser(
        prog="m2f-batch", description="Batch segmentation with Mask2Former on Ray: one correct row per image."
    )
    parser.add_argument("--version", action="version", version=f"m2f-batch {VERSION}", help="print the version")
    add_completion(parser)
    parser.examples = [Example(*each) for each in EXAMPLES]
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        add_command(parsers, name, command, has_arguments=typed not in commands or typed == name)
    return parser


def _run(arguments: list[str], result: Result) -> int:
    name = arguments[0] if arguments else ""
    try:
        commands = find_commands()
        name = name if name in commands else ""
        here = {each: command for each, command in commands.items() if not is_missing(_client(command))}
        if name in commands.keys() - here.keys():
            of_client = [each for each, command in commands.items() if _client(command)]
            _complain(name, what_to_install(_client(commands[name]), of_client))
            return UsageError.exit_code
        parser = new_parser(here, name)
        if is_asked():
            answer(parser)
        if (chooser := parser.at(arguments)) is not None:
            print(chooser.format_help(), end="", file=sys.stderr, flush=True)
            return UsageError.exit_code
        options = parser.parse_args(arguments)
        name = options.command
        if hasattr(options, "result"):  # it has called ``add_result``
            result.begin(options.result)
        if doubt := check_installation():
            _say(name, doubt)
        with notes_to(_note), quiet(options.quiet):
            return commands[name].run(options)
    except CommandError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and (text := what_is_missing(error.__cause__)):
            _complain(name, text)
            return UsageError.exit_code
        _complain(name, str(error))
        return error.exit_code
    except TransientError as error:
        _complain(name, f"{error}; try again later")
        return RunError.exit_code
    except ModuleNotFoundError as error:
        if (text := what_is_missing(error)) is None:
            raise
        _complain(name, text)
        return UsageError.exit_code
    except BrokenPipeError:  # whoever read our output has gone away, as ``| head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RunError.exit_code
    except KeyboardInterrupt:
        tell(error="stopped; what was committed is kept")
        print(f"m2f-batch {name}: stopped; what was committed is kept", file=sys.stderr, flush=True)
        return STOPPED


def _end(result: Result, code: int) -> None:
    try:
        result.end(code)
    except OSError as error:
        print(f"m2f-batch: --result: cannot be written ({error.strerror})", file=sys.stderr, flush=True)


def _client(command: Command) -> str | None:
    """Return the requirement of the small distribution that has a command, None where only the whole one has it."""
    return getattr(command, "CLIENT", None)


def _complain(name: str, text: str) -> None:
    tell(error=text)
    _say(name, text)


def _say(name: str, text: str) -> None:
    line = f"{f'm2f-batch {name}'.rstrip()}: {printable(text)}"
    print(colored(line, sys.stderr), file=sys.stderr, flush=True)


def _note(line: str) -> None:
    say(line, file=sys.stderr)


def _on_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback, without keys that may stand in its last line."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, flush=True)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
