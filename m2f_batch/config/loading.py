"""Makes a checked config of a file, ``--set`` and flags, and reports all mistakes in it at once."""

import itertools
import os
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from m2f_batch.config.ranges import allowed_values, choices_of, what_is_wrong
from m2f_batch.config.section import Section
from m2f_batch.config.yaml_values import MAX_SIZE, yaml_value
from m2f_batch.errors import UsageError, renamed
from m2f_batch.messages.foreign_words import WORDS, canonical, meant_name, meant_value
from m2f_batch.messages.near_miss import did_you_mean, misspelled
from m2f_batch.messages.notes import note

SHOWN, SHORT = 8, 40  # keys of a file that is none of ours, and characters of each
LONG = 60  # characters of a value that is shown
Tree = dict[str, object]  # of a section; values may be trees
Fields = Mapping[str, FieldInfo]  # by dotted key
C = TypeVar("C", bound=BaseModel)


def load_config(
    kind: type[C],
    *,
    file: str | Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    typed: Mapping[str, str] | None = None,
) -> C:
    """Return a checked config. Precedence: flag, ``--set``, file, default.

    ``file`` is one, or what it would hold. ``overrides`` are ``dotted.key=yaml`` texts, ``flags`` maps dotted keys to
    values (None = not given), ``typed`` maps some of them to what is typed for them, such as "--model M".
    Raises UsageError with one line per mistake: field, value, what is allowed, what was meant or would fit.
    """
    problems: list[str] = []
    where = f"--config {file}" if isinstance(file, str) else "--config"
    read = _read_file(file) if isinstance(file, str) else file or {}
    _refuse_another(kind, read, where)
    tree = _canonical(kind, read, where, problems)
    over = _canonical(kind, _tree_of_overrides(kind, overrides, problems), "--set", problems)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    _merge(kind, tree, over)
    _merge(kind, tree, _canonical(kind, _tree_of_flags(given, problems), "one place", problems))
    config = _checked(kind, tree, problems, typed or {})
    for key, value in given.items():
        if (beaten := _value(over, key)) not in (None, value):
            note(f"warning: {key} is given twice: its flag ({value}) wins over --set ({beaten})")
    return config


def check_config(kind: type[C], tree: Mapping[str, object]) -> C:
    """Return a checked config, or section of one, from a plain tree.

    Raises UsageError with one line per mistake.
    """
    problems: list[str] = []
    return _checked(kind, _canonical(kind, tree, "one place", problems), problems)


def fields_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield all (dotted key, field) of a config, with its sections opened."""
    for name, field in kind.model_fields.items():
        section = _section(kind, name)
        if section is not None:
            yield from fields_of(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _is_open(kind: type[BaseModel], name: str) -> bool:
    """Tell whether a config's field is a mapping of any keys, such as ``model.config`` of the finetune job."""
    return name in kind.model_fields and typing.get_origin(kind.model_fields[name].annotation) is dict


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a config holds under a name, None for a plain field or an unknown name."""
    annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


# ---- the sources


def _read_file(file: str) -> Tree:
    try:
        with open(os.path.expanduser(file), "rb") as handle:
            text = handle.read(MAX_SIZE + 1).decode()
        if len(text) > MAX_SIZE:
            raise ValueError(f"more than {MAX_SIZE:,} bytes")
        tree = yaml_value(text)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UsageError(problem, field=f"--config {file}", hint="give a YAML file") from None
    except ValueError as error:
        where = " ".join(str(error).split())
        raise UsageError(f"is not YAML ({where})", field=f"--config {file}") from None
    if tree is not None and not _is_tree(tree):
        raise UsageError("must hold a mapping such as 'input: {uri: photos}'", field=f"--config {file}")
    return tree or {}


def _refuse_another(kind: type[BaseModel], tree: Mapping[str, object], where: str) -> None:
    """Raise UsageError for a file of another tool in one line, instead of one for each of its keys.

    It is one if it holds no section of ours, and if it describes a dataset as ultralytics does or most of its keys are
    neither ours nor near to one that is. A file that gives a section's name to a mapping is taken for ours, but for
    what a job wrote itself, which has its whole config in it.
    """
    known = dict(fields_of(kind))
    if "attempts" in tree and isinstance(tree.get("config"), Mapping):
        hint = "copy what it holds below config into a YAML file, and give that"
        raise UsageError("is what a job wrote, and no config", field=where, hint=hint)
    if any(_section(kind, name) and (value is None or isinstance(value, Mapping)) for name, value in tree.items()):
        return
    strange = [name for name in tree if name not in kind.model_fields and not _meant(str(name), known)]
    is_dataset = bool({"names", "nc"} & tree.keys()) and bool({"train", "val"} & tree.keys())
    if is_dataset or 2 * len(strange) > max(len(tree), 2):
        held = ", ".join(_short(name) for name in itertools.islice(tree, SHOWN)) + ", ..." * (len(tree) > SHOWN)
        hint = f"known sections: {', '.join(_sections_of(known))}"
        if is_dataset and "data" in kind.model_fields:
            hint = "a dataset's YAML is no config: give it as DATASET"
        raise UsageError(f"is no config of this command (it holds {held})", field=where, hint=hint)


def _short(name: object) -> str:
    """Show a key of a file that is none of ours, which may be of any length and kind."""
    return str(name)[:SHORT] if str(name).isidentifier() else repr(str(name))[:SHORT]


def _is_tree(value: object) -> TypeGuard[Tree]:
    """Tell whether a value of YAML is a mapping. Keys that are no texts are found unknown by the check."""
    return isinstance(value, dict)


def _tree_of_overrides(kind: type[BaseModel], overrides: Sequence[str], problems: list[str]) -> Tree:
    texts = {key for key, field in fields_of(kind) if takes_text(field.annotation)}
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"--set {override}: must be dotted.key=value, e.g. --set model.precision=bf16")
            continue
        takes_null = None if text.strip() or key in texts else _takes_null(kind, key)
        if takes_null is not None:  # it is YAML's null, but most likely a script's variable that is unset
            null = f", --set {key}=null for none," if takes_null else ""
            problems.append(f"--set {override}: has no value; give one{null} or leave it out")
            continue
        try:
            _assign(tree, key, text if key in texts else yaml_value(text), f"--set {override}", problems)
        except ValueError:
            problems.append(f"--set {override}: the value is not YAML; quote it: --set 'key=[0, 5]'")
    return tree


def _takes_null(kind: type[BaseModel], key: str) -> bool | None:
    """Tell whether a dotted key, or an alias, may be null, None where there is no such key."""
    name, _, below = key.partition(".")
    name = kind.key_aliases.get(name, name) if issubclass(kind, Section) else name
    section = _section(kind, name)
    if section is not None:
        return _takes_null(section, below) if below else False
    if name not in kind.model_fields or (below and not _is_open(kind, name)):
        return None
    annotation = kind.model_fields[name].annotation
    return bool(below) or (_is_union(annotation) and type(None) in typing.get_args(annotation))


def _is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def takes_text(annotation: object) -> bool:
    """Tell whether a field is plain text, optional or not."""
    if _is_union(annotation):
        return set(typing.get_args(annotation)) == {str, type(None)}
    return annotation is str


def _tree_of_flags(flags: Mapping[str, object], problems: list[str]) -> Tree:
    tree: Tree = {}
    for key, value in flags.items():
        _assign(tree, key, value, key, problems)
    return tree


def _assign(tree: Tree, key: str, value: object, where: str, problems: list[str]) -> None:
    *sections, last = key.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not _is_tree(below):
            problems.append(f"{where}: {section} was given a value before, and cannot hold {last} too")
            return
        tree = below
    tree[last] = value


def _canonical(
    kind: type[BaseModel], tree: Mapping[str, object], where: str, problems: list[str], prefix: str = ""
) -> Tree:
    """Return the tree in our words instead of transformers'. A key and its alias together are a mistake."""
    key_aliases, value_aliases = (kind.key_aliases, kind.value_aliases) if issubclass(kind, Section) else ({}, {})
    ours: Tree = {}
    for name, value in tree.items():
        key, section = key_aliases.get(name, name), _section(kind, name)
        if key != name and key in tree:
            problems.append(f"{prefix}{key} and its alias {prefix}{name} are both given in {where}: keep one of them")
            continue
        if value is None and (section is not None or _is_open(kind, name)):
            value = {}  # a section whose keys are all commented out
        if section is not None and isinstance(value, Mapping):
            value = _canonical(section, value, where, problems, f"{prefix}{name}.")
        if isinstance(value, str):
            value = value_aliases.get(key, {}).get(value, value)
        ours[key] = value
    return ours


def _merge(kind: type[BaseModel], base: Tree, over: Mapping[str, object]) -> None:
    """Lay one source over another: sections key by key, everything else whole (a size is not mixed with another)."""
    for key, value in over.items():
        section, below = _section(kind, key), base.get(key)
        if _is_open(kind, key) and isinstance(value, Mapping) and isinstance(below, Mapping):
            base[key] = _overlaid(below, value)
        elif section is None or not isinstance(value, Mapping):
            base[key] = value
        elif _is_tree(below := base.setdefault(key, {})):  # any other value there is a mistake, found by the check
            _merge(section, below, value)


def _overlaid(base: Mapping[str, object], over: Mapping[str, object]) -> Tree:
    """Return a mapping of any keys with another laid over it, at every depth."""
    tree = dict(base)
    for key, value in over.items():
        below = tree.get(key)
        tree[key] = _overlaid(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return tree


# ---- the check


def _checked(kind: type[C], tree: Tree, problems: list[str], typed: Mapping[str, str] | None = None) -> C:
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError.of_all([*map(UsageError, problems), *_mistakes_of(error, kind, tree, typed)]) from None
    if problems:
        raise UsageError.of_all([*map(UsageError, problems)])
    return config


def _mistakes_of(
    error: ValidationError, kind: type[BaseModel], tree: Tree, typed: Mapping[str, str] | None
) -> list[UsageError]:
    """Return one mistake per field, though pydantic has an error per branch of a union and per item of a list."""
    known = dict(fields_of(kind))
    kinds: dict[str, list[tuple[str, str]]] = {}
    found: dict[str, UsageError] = {}
    missing: dict[str, FieldInfo] = {}
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        key = _known_prefix(place, known)
        kinds.setdefault(key, []).append((item["type"], item["msg"]))
        if item["type"] == "conflict":  # between fields of a section, which the message names
            found[item["msg"]] = UsageError(item["msg"])
        elif item["type"] == "missing" and key == ".".join(place):
            needed = [name for name in known if name == key or name.startswith(f"{key}.")]
            missing |= {name: known[name] for name in needed if known[name].is_required()}
        elif item["type"] == "extra_forbidden" and "." in place[-1]:
            found[key] = _dotted(place[-1])
        elif key in known:
            found[key] = _refused(key, known[key], _value(tree, key), what_is_wrong(kinds[key]), typed)
        elif item["type"] == "extra_forbidden":
            shown = repr(item["input"])
            problem = f"unknown key (value {shown if len(shown) <= LONG else f'{shown[:LONG]}...'})"
            found[key] = UsageError(problem, field=key, hint=_near(key, known))
        else:
            below = ", ".join(name for name in known if name.startswith(f"{key}."))
            allowed = f"a mapping of {below or 'texts'}"
            found[key] = UsageError("is not allowed", field=key, value=item["input"], allowed=allowed)
    return [*_missing(missing, typed or {}), *found.values()]


def _missing(fields: Fields, typed: Mapping[str, str]) -> Iterator[UsageError]:
    """Say what is not given and what to type for it, in one line where all of it has a place on the command line."""
    if len(fields) > 1 and fields.keys() <= typed.keys():
        *most, last = (given for key, given in typed.items() if key in fields)
        yield UsageError("are not given", field=", ".join(fields), hint=f"give {', '.join(most)} and {last}")
        return
    flags = {key: given.partition(" ")[0] for key, given in typed.items()}
    for key, field in fields.items():
        takes = f"give {typed[key]}," if key in typed else "it takes"
        words = renamed(field.description or allowed_values(field), flags)
        yield UsageError("is not given", field=key, hint=f"{takes} {words}")


def _refused(key: str, field: FieldInfo, value: object, wrong: str, typed: Mapping[str, str] | None) -> UsageError:
    """Say that a field does not take a value, what it takes, and what was meant or would fit."""
    problem = f"is not allowed ({wrong})" if wrong else "is not allowed"
    near = meant_value(value, choices_of(field)) if isinstance(value, str) else ""
    allowed = allowed_values(field) or f"a text ({field.description})"
    return UsageError(problem, field=key, value=value, allowed=allowed, hint=near or _fitting(key, field, typed))


def _fitting(key: str, field: FieldInfo, typed: Mapping[str, str] | None) -> str:
    """Give an example of a value that fits, as it is typed where it was typed, or the default."""
    if field.examples:
        example, option = field.examples[0], (typed or {}).get(key, "").partition(" ")[0]
        if typed is None:
            return f"for example {example}"
        given = (
            f"{option} {shlex.quote(example)}"
            if option.startswith("--")
            else f"--set {shlex.quote(f'{key}={example}')}"
        )
        return f"for example {given}"
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return f"the default is {default}" if isinstance(default, int | float) and not isinstance(default, bool) else ""


def _dotted(key: str) -> UsageError:
    """Say how a key is nested that was given with its section before a dot, as only ``--set`` takes it."""
    first, *below = key.split(".")
    nested = f"{first}: {{{': {'.join(below)}: ...{'}' * len(below)}"
    return UsageError(": unknown key", value=key, hint=f"sections are nested: {nested}")


def _known_prefix(parts: list[str], known: Fields) -> str:
    """Return the dotted key of an error's place, without pydantic's names for the branches of a union."""
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)


def _value(tree: object, key: str) -> object:
    """Return the value of a dotted key, None where a tree has none."""
    for part in key.split("."):
        tree = tree.get(part) if _is_tree(tree) else None
    return tree


def _near(key: str, known: Fields) -> str:
    """Name the known key or section that was meant, else the keys beside it."""
    section = key.rpartition(".")[0]
    beside = ", ".join(name for name in known if name.startswith(f"{section}.")) or ", ".join(known)
    has_sections = not section and any("." in name for name in known)
    there = f"known sections: {', '.join(_sections_of(known))}" if has_sections else f"known keys: {beside}"
    return _meant(key, known) or there


def _meant(key: str, known: Fields) -> str:
    """Ask whether a known key or section was meant, in the section of ``key`` first. Empty where none is near."""
    section, _, last = key.rpartition(".")
    beside = [name for name in known if name.startswith(f"{section}.")] or list(known)
    sections = _sections_of(known)
    by_last = {name.rpartition(".")[2]: name for name in [*sections, *known, *beside]}
    targets = [target.partition("=")[0] for target in WORDS.get(canonical(last), ())]
    by_word = by_last.get(meant_name(last, by_last) or last, "")
    by_word = f"{by_word}.uri" if f"{by_word}.uri" in known else by_word  # a section is what its place is called by
    if meant := next((name for name in targets if name in known), None) or by_word:
        return f"did you mean {meant}?"
    near = did_you_mean(last, {name.rpartition(".")[2]: name for name in (beside if section else sections)})
    elsewhere = [by_last[each] for each in misspelled(last, by_last)]
    return near or (f"did you mean {elsewhere[0]}?" if elsewhere else "")


def _sections_of(known: Fields) -> list[str]:
    """Name the sections, or keys without one, in their order."""
    return [*dict.fromkeys(name.partition(".")[0] for name in known)]
