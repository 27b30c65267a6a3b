"""Says what somebody meant who typed a command, an option or an argument that is none."""

import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from m2f_batch.messages.foreign_words import COMMANDS, ELSEWHERE, REMARKS, WORDS, canonical
from m2f_batch.messages.near_miss import misspelled, near_misses


@dataclass(frozen=True)
class Known:
    """The names that a command has.

    Attributes:
        prog: what is typed for the command, such as "m2f-batch segment".
        options: "--model", "-h" and so on, with whether they take a value.
        arguments: those that stand for themselves, "INPUT" and "OUTPUT", in their order.
        keys: those of its config, none where it takes no ``--set``.
        given: the words that were typed, of which options are not meant again.
    """

    prog: str
    options: Mapping[str, bool]
    arguments: Sequence[str]
    keys: Sequence[str] = ()
    given: Sequence[str] = ()


def meant_command(word: str, commands: Sequence[str], options: Container[str], prog: str) -> str:
    """Say which command, or which of the ``options`` that stand in its place, was meant, or which commands there are.

    >>> meant_command("train", ["finetune"], [], "m2f-batch"), meant_command("x", ["a", "b"], [], "m2f-batch")
    ('did you mean m2f-batch finetune?', 'commands: a, b')
    >>> meant_command("version", ["a"], ["--version"], "m2f-batch"), meant_command("version", ["a"], [], "m2f-batch")
    ('did you mean m2f-batch --version?', 'commands: a')
    >>> meant_command("segmnt", ["segment"], [], "m2f-batch")
    'did you mean m2f-batch segment?'
    """
    name = COMMANDS.get(word.lower(), "")
    near = [name] if name in commands or name in options else near_misses(word, commands)
    near = near or [COMMANDS[each] for each in misspelled(word, COMMANDS) if COMMANDS[each] in commands]
    return f"did you mean {prog} {near[0]}?" if near else f"commands: {', '.join(commands)}"


def meant_option(word: str, value: str | None, known: Known) -> str:
    """Say what an option that is none was meant to be. ``value``: what is typed behind it, if it is a value.

    >>> segment = Known("m2f-batch segment", {"--model": True}, ["INPUT"], ["compute.batch_size"])
    >>> meant_option("--batch-size", "8", segment)
    'did you mean --set compute.batch_size=8?'
    >>> meant_option("--modle", "M", segment), meant_option("--source", "photos", segment)
    ('did you mean --model M?', 'give INPUT without a name: m2f-batch segment INPUT')
    """
    name = canonical(word)
    given = word.partition("=")[2] if "=" in word else value
    near = None if name in WORDS or name in ELSEWHERE else _near(name, known)
    return (
        _meant(name, given, known)
        or (_advice(near, given, known) if near else None)
        or ELSEWHERE.get(name, f"see {known.prog} --help")
    )


def meant_setting(word: str, known: Known) -> str:
    """Say what a KEY=VALUE was meant to be that stands for itself, nothing where nobody knows its key.

    >>> meant_setting("conf=0.3", Known("m2f-batch segment", {"--score-threshold": True}, ["INPUT"]))
    'did you mean --score-threshold 0.3?'
    >>> meant_setting("date=2026-11-30", Known("m2f-batch segment", {}, ["INPUT"]))
    ''
    """
    name, equals, value = word.partition("=")
    return (_meant(canonical(name), value, known) or "") if equals else ""


def _meant(name: str, value: str | None, known: Known) -> str | None:
    """Say what a word of ours or of another tool stands for, None where that is nothing or not known."""
    if name in REMARKS:
        return REMARKS[name]
    target = _names(known).get(name) or _first(WORDS.get(name, ()), known)
    return _advice(target, value, known) if target else None


def meant_argument(rest: Sequence[str], known: Known) -> str:
    """Say what is wrong with words that are too many.

    >>> meant_argument(["model=x/y"], Known("m2f-batch segment", {"--model": True}, ["INPUT", "OUTPUT"]))
    'did you mean --model x/y?'
    """
    if hint := meant_setting(rest[0], known):
        return hint
    takes = f"{known.prog} takes {' '.join(known.arguments) or 'none'}"
    return takes if len(rest) == 1 else f"{takes}; quote a glob or a name with a blank: '*.jpg'"


def _names(known: Known) -> dict[str, str]:
    """Return options, arguments and config keys by the words that they may be typed as, options first."""
    keys = {
        **{canonical(key.rpartition(".")[2]): key for key in reversed(known.keys)},
        **{key: key for key in known.keys},
    }
    arguments = {argument.lower(): argument for argument in known.arguments}
    return keys | arguments | {canonical(option): option for option in known.options if option.startswith("--")}


def _near(name: str, known: Known) -> str | None:
    """Return what a mistyped word is but for a letter or two, of our words or of those of other tools."""
    by_word = _names(known)
    if near := misspelled(name, by_word):
        return by_word[near[0]]
    return next((meant for each in misspelled(name, WORDS) if (meant := _first(WORDS[each], known))), None)


def _first(targets: Iterable[str], known: Known) -> str | None:
    """Return the first of ``targets`` that the command has, one that is not given yet where there is such."""
    there = {*known.options, *known.arguments, *known.keys}
    found = [target for target in targets if target.partition("=")[0] in there]
    given = {word.partition("=")[0] for word in known.given}
    return next((target for target in found if target.partition("=")[0] not in given), found[0] if found else None)


def _advice(target: str, value: str | None, known: Known) -> str:
    if target in known.arguments:
        return f"give {target} without a name: {known.prog} {' '.join(known.arguments)}"
    name, _, meant = target.partition("=")
    fits = meant.replace("%", value if value and value.isdigit() else "...") or value
    if name in known.keys:
        setting = f"{name}={fits or '...'}"
        return f"did you mean --set {shlex.quote(setting)}?"
    if name == "--set" and (not value or value.partition("=")[0] not in known.keys or "=" not in value):
        return f"give --set KEY=VALUE, with a key of those that {known.prog} --help lists"
    return f"did you mean {name} {shlex.quote(fits)}?" if fits and known.options[name] else f"did you mean {name}?"
