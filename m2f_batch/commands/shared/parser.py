"""Parses what is typed behind ``m2f-batch``, says what a mistake was meant to be, and prints help."""

import argparse
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from m2f_batch.commands.shared.completion import is_asked
from m2f_batch.commands.shared.meaning import Known, meant_argument, meant_command, meant_option, meant_setting
from m2f_batch.config.loading import fields_of
from m2f_batch.config.ranges import default_of
from m2f_batch.config.section import Section
from m2f_batch.errors import ABSENT, UsageError
from m2f_batch.messages.foreign_words import meant_value
from m2f_batch.messages.near_miss import misspelled

KEYS = "config keys, for --set KEY=VALUE or a file for --config"
KINDS = {"int": "a whole number", "float": "a number"}
_OF_ARGUMENT = re.compile(r"argument ([^:]+): (.*)", re.DOTALL)  # argparse's own words
_VALUE = re.compile(r"(?:invalid choice|invalid \w+ value): '(.*?)'(?:[ ,]|$)", re.DOTALL)
_PATH = re.compile(r"[/*?\[]")  # no value of a setting is likely to hold one of these


class Example(NamedTuple):
    """A command line that works, and what it does."""

    meaning: str
    line: str

    def shown(self, width: int) -> str:
        """Return both for help, in lines that a shell takes as they are."""
        wrapper = textwrap.TextWrapper(width - 8, break_long_words=False, break_on_hyphens=False)
        meaning = "\n".join(f"  # {line}" for line in wrapper.wrap(self.meaning))
        whole = re.sub(r" (--\S+) (?!-)", r" \1\0", self.line)  # an option stays beside its value
        line = " \\\n      ".join(wrapper.wrap(whole)).replace("\0", " ")
        return f"{meaning}\n  {line}\n"


class Help(argparse.HelpFormatter):
    """Wraps all texts at the terminal's width."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, **options})


class Parser(argparse.ArgumentParser):
    """A parser of one command, or of those below it, that raises UsageError for a mistake.

    Attributes:
        examples: what its help ends with.
        config: the config whose keys ``--set`` takes, None where the command has none.
    """

    examples: Sequence[Example] = ()
    config: type[Section] | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, **options)
        self._is_within = False

    @property
    def keys(self) -> list[str]:
        """The keys that ``--set`` takes."""
        return [key for key, _ in fields_of(self.config)] if self.config else []

    @property
    def commands(self) -> list[str]:
        """The commands that this parser chooses among, none where it is the parser of one."""
        return [name for action in self._commands() for name in action.choices]

    def at(self, args: Sequence[str]) -> "Parser | None":
        """Return the parser that should have been told a command by ``args`` and was not, if there is one."""
        if not self.commands:
            return None
        if not args:
            return self
        below = self._commands()[0].choices.get(args[0])
        return below.at(args[1:]) if below is not None else None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what is typed behind one command, arguments and options in any order.

        Raises UsageError for whatever is left over.
        """
        if self._is_within or args is None or is_asked():
            return super().parse_known_args(args, namespace)
        if self.commands:
            self._check_first(args[:1])
            return super().parse_known_args(args, namespace)
        self._check_options(args)
        self._is_within = True
        try:
            # help reads the defaults, which argparse takes away while it sorts what is mixed
            is_plain = any(re.fullmatch(r"--(he?l?p?)?|-h", word) for word in args)
            parse = super().parse_known_args if is_plain else self.parse_known_intermixed_args
            options, rest = parse(args, namespace)
        finally:
            self._is_within = False
        self._check_values(options, args[args.index("--") + 1 :] if "--" in args else ())
        if rest:
            self._refuse_more(rest, options, args)
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Raise UsageError for what argparse says."""
        raise self._mistake(message)

    def format_help(self) -> str:
        """Return the help: usage, arguments, options, config keys, examples."""
        text = super().format_help()
        if self.config is not None:
            formatter = self._get_formatter()
            formatter.start_section(KEYS)
            for key, field in fields_of(self.config):
                words = f"{field.description}{default_of(field)}".replace("%", "%%")
                formatter.add_argument(argparse.Action([], key, metavar=key, help=words))
            formatter.end_section()
            text += f"\n{formatter.format_help()}"
        if self.examples:
            width = self._get_formatter()._width
            text += "\nexamples:\n" + "\n".join(each.shown(width) for each in self.examples)
        return text

    def _commands(self) -> list["argparse._SubParsersAction[Parser]"]:
        return [each for each in self._actions if isinstance(each, argparse._SubParsersAction)]

    def _known(self, given: Sequence[str] = ()) -> Known:
        arguments = [str(each.metavar) for each in self._actions if not each.option_strings and each.metavar]
        options = {name: each.nargs != 0 for name, each in self._option_string_actions.items()}
        return Known(self.prog, options, arguments, self.keys, given)

    def _check_first(self, words: Sequence[str]) -> None:
        """Raise UsageError for an option that stands before the command it is of."""
        for word in words:
            if re.match(r"--?[A-Za-z]", word) and not self._is_option(word, None):
                hint = f"type it behind the command: {self.prog} {self._commands()[0].metavar} {word}"
                options = [name for name in self._option_string_actions if name.startswith("--")]
                near = ["--version"] if word.lower() == "-v" else misspelled(word.lower(), options)
                if near and near[0] in options:
                    hint = f"did you mean {self.prog} {near[0]}?"
                raise UsageError("is no option here", field=word, hint=hint)

    def _check_options(self, args: Sequence[str]) -> None:
        """Raise UsageError for the first option that is none of this command's, before anything else is missed."""
        for place, word in enumerate(args):
            if word == "--":
                return
            before = self._option_string_actions.get(args[place - 1]) if place else None
            takes_it = before is not None and before.nargs is None
            after = args[place + 1] if place + 1 < len(args) and not args[place + 1].startswith("-") else None
            if not takes_it and re.match(r"--?[A-Za-z]", word) and not self._is_option(word, after):
                hint = meant_option(word, after, self._known(args))
                raise UsageError("is no option", field=word.partition("=")[0], hint=hint)

    def _is_option(self, word: str, value: str | None) -> bool:
        """Return whether a word is an option of this command, or the beginning of one, or a text with a blank.

        The ``--conf`` of other tools, with a number, does not begin ``--config``.
        """
        name = word.partition("=")[0]
        if name == "--conf" and re.fullmatch(r"[\d.]+", value or word.partition("=")[2]):
            return False
        return " " in name or any(each.startswith(name) for each in self._option_string_actions)

    def _check_values(self, options: argparse.Namespace, plain: Sequence[str]) -> None:
        """Raise UsageError for an empty text, as a script's unset variable leaves it, and for the KEY=VALUE of others.

        What is there, looks like a path, or is ``plain`` since it stands behind "--", is the name of a place, and the
        image of a run is whatever its rows say: folders are often called by a key, as Hive does (run=5/).
        """
        for action in self._actions:
            value = getattr(options, action.dest, None)
            name = action.option_strings[-1] if action.option_strings else str(action.metavar)
            if value == "" != action.default:
                give = f"give {name} {action.metavar}" if action.option_strings else f"give {name}"
                may_miss = bool(action.option_strings) and not action.required
                hint = f"{give}, or leave {name} out" if may_miss else give
                raise UsageError("is no value", field=name, value=value, hint=hint)
            if action.option_strings or not isinstance(value, str) or name == "URI" or value in plain:
                continue
            if _PATH.search(value.partition("=")[2]) or os.path.lexists(value):
                continue
            if hint := meant_setting(value, self._known()):
                hint += f"; a place of that name is written ./{value}"
                raise UsageError("is no argument", field=value, hint=hint)

    def _refuse_more(self, rest: Sequence[str], options: argparse.Namespace, args: Sequence[str]) -> NoReturn:
        given = getattr(options, "set", ())
        for each in given:
            if each.partition("=")[2] == "":  # --set KEY VALUE, or --set KEY= VALUE
                key = each.rstrip("=")
                raise UsageError("must be KEY=VALUE", field=f"--set {each}", hint=f"for example --set {key}={rest[0]}")
        hint = self._listed(rest, args) or meant_argument(rest, self._known())
        may_be_set = getattr(options, "config", None) or any(each.startswith("model.uri=") for each in given)
        if getattr(options, "model", ABSENT) is None and not may_be_set and "--model" not in hint:
            hint += "; the model is given as --model M"
        raise UsageError(
            f"{'is' if len(rest) == 1 else 'are'} too much",
            field=" ".join(rest[:3]) + (" ..." if len(rest) > 3 else ""),
            hint=hint,
        )

    def _listed(self, rest: Sequence[str], args: Sequence[str]) -> str:
        """Say how values are given to an option of several, where ``rest`` stands behind the first of them."""
        for place, word in enumerate(args):
            action = self._option_string_actions.get(word)
            is_list = action is not None and str(action.metavar).endswith(",...")
            if is_list and [*args[place + 2 : place + 2 + len(rest)]] == [*rest]:
                values = ",".join(value.strip(",") for value in (args[place + 1], *rest))
                return f"did you mean {word} {values}?"
        return ""

    def _mistake(self, message: str) -> UsageError:
        """Return argparse's complaint in our words."""
        if message.startswith("the following arguments are required: "):
            missing = message.partition(": ")[2]
            several = "are" if "," in missing else "is"
            hint = f"for example: {self.examples[0].line}" if self.examples else f"see {self.prog} --help"
            return UsageError(f"{several} not given", field=missing, hint=hint)
        if message.startswith("ambiguous option: "):
            word, _, options = message.removeprefix("ambiguous option: ").partition(" could match ")
            return UsageError(f"may be {options.replace(', ', ' or ')}", field=word, hint="type the whole name")
        found = _OF_ARGUMENT.match(message)
        return self._of_argument(found[1], found[2]) if found else UsageError(message, hint=f"see {self.prog} --help")

    def _of_argument(self, name: str, problem: str) -> UsageError:
        action = next((each for each in self._actions if name in ("/".join(each.option_strings), each.metavar)), None)
        value = found[1] if (found := _VALUE.search(problem)) else ABSENT
        choices = [str(each) for each in action.choices or ()] if action else []
        if self.commands and name == self._commands()[0].metavar:
            hint = meant_command(str(value), choices, self._option_string_actions, self.prog)
            return UsageError("is no command", value=value, hint=hint)
        if problem.startswith("invalid choice"):
            hint = meant_value(str(value), choices)
            return UsageError("is not known", field=name, value=value, allowed=", ".join(choices), hint=hint)
        if kind := re.match(r"invalid (\w+) value", problem):
            hint = f"give {name} {action.metavar}, {action.help}" if action else ""
            return UsageError(f"is not {KINDS.get(kind[1], kind[1])}", field=name, value=value, hint=hint)
        if problem.startswith("expected one argument"):
            metavar = action.metavar if action else "VALUE"
            return UsageError("has no value", field=name, hint=f"give {name} {metavar}")
        if problem.startswith("ignored explicit argument"):
            return UsageError("takes no value", field=name, hint=f"give {name} alone, or leave it out")
        return UsageError(problem, field=name)
