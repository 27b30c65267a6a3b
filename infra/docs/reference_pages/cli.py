"""Makes the page of commands and options, from the parsers that read the command line."""

import argparse
from collections.abc import Iterator

from m2f_batch.cli import new_parser
from m2f_batch.commands.shared.registry import find_commands
from reference_pages.markdown import MADE, code, joined, sentence, table, text_of

Parsers = dict[str, argparse.ArgumentParser]
# pages that say more
CONFIG_OF = {"segment": "segment", "finetune": "finetune"}
EVERY = """\
Arguments and options may stand in any order. The value of an option that stands for a config key is YAML, as [that of
`--set`](config.md). Where it is empty or null it is refused, because it would leave the key as if nothing were typed:
a script's variable may be unset. `--set KEY=null` sets null where the key takes it.

Options of other tools are answered by ours: `--imgsz 640` by `--size '{shortest_edge: 640, longest_edge: 640}'`,
`--lr 1e-4` by `--set train.learning_rate=1e-4`.

With `--quiet` only warnings, notes and errors are printed, and what `--json` asks for. Where the exit code is not 0,
stderr says why, so that `m2f-batch verify RUN --quiet && ...` is enough for a script. The log in `RUN/_state/log/` is
whole.

On a terminal a run shows a live table: images, errors, rate, time left, how busy each stage is, and what to change. A
training has one of steps, rate, time left and losses, and `evaluate` counts the images that it has measured. Lines are
colored, unless `NO_COLOR` is set. Into a pipe or a file, and where `TERM` is `dumb`, a run prints a plain line every 15
seconds, and a training every 30."""


def page() -> str:
    """Return reference/cli.md."""
    parsers = _below(new_parser(find_commands()))
    described = [
        (f"[{name}](#{name.replace(' ', '-')})", text_of(sentence(_summary(parser))))
        for name, parser in parsers.items()
    ]
    return joined(
        "# Commands",
        f"What can be typed behind `m2f-batch`, and what it means. {MADE}",
        "How a command ends is its [exit code](errors.md#exit-codes). `m2f-batch COMMAND --help` prints the same.",
        table(["command", "what it does"], described),
        "## Every command",
        "`m2f-batch` alone prints its help and ends with 2. In place of a command it takes:",
        table(["option", "what it does"], _rows(new_parser(find_commands()))),
        EVERY,
        *(_command(name, parser, parsers) for name, parser in parsers.items()),
    )


def _below(parser: argparse.ArgumentParser, prefix: str = "") -> Parsers:
    """Return the parsers of all commands by what is typed, without those that only choose among others."""
    found: Parsers = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                below = _below(each, f"{prefix}{name} ")
                found |= below or {f"{prefix}{name}": each}
    return found


def _summary(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").split(". ")[0]


def _command(name: str, parser: argparse.ArgumentParser, parsers: Parsers) -> str:
    job = name.removeprefix("submit ")
    known = {_key(action): _help(parsers[job], action) for action in _actions(parsers[job])} if job in parsers else {}
    known = known if job != name else {}
    rows = [
        (_spelling(action), text_of(text))
        for action in _actions(parser)
        if (text := _help(parser, action)) != known.get(_key(action))
    ]
    also = f"All that [{job}](#{job}) takes, and:" if known else ""
    config = (
        f"The keys of `--config` and `--set` are listed [here](config.md#{job}-{_first_section(job)})."
        if job in CONFIG_OF
        else ""
    )
    return joined(
        f"## {name}",
        text_of(sentence(parser.description or "")),
        f"    {_usage(name, parser)}",
        also,
        table(["argument", "meaning"], rows),
        "" if known else config,
    )


def _rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Return the options of the parser that chooses among the commands."""
    options = (action for action in _actions(parser) if action.option_strings)
    return [(_spelling(action), text_of(_help(parser, action))) for action in options]


def _first_section(job: str) -> str:
    return {"segment": "input", "finetune": "data"}[job]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            yield action


def _key(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else action.dest


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """Return the line to type: its arguments, and those of its options that must be given."""
    words = []
    for action in _actions(parser):
        if not action.option_strings:
            metavar = _metavar(parser, action)
            words.append(f"[{metavar}]" if action.nargs in ("?", "*") else metavar)
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_metavar(parser, action)}")
    return " ".join(["m2f-batch", name, *words, "[options]"])


def _metavar(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    default = action.dest.upper()
    return " ".join(formatter._metavar_formatter(action, default)(1)) if action.nargs != 0 else ""


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(action.metavar or action.dest)
    value = (
        ""
        if action.nargs == 0
        else f" {action.metavar or '{' + ','.join(map(str, action.choices or [action.dest.upper()])) + '}'}"
    )
    return ", ".join(code(f"{each}{value}") for each in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""
