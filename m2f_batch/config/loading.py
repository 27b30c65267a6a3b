"""Config from file, ``--set`` and flags to a checked model; every mistake is reported, all of them at once."""

import itertools
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from m2f_batch.config.segment import Section
from m2f_batch.errors import UsageError
from m2f_batch.messages.near_miss import did_you_mean

MAX_SIZE = 1_000_000  # bytes of a config, and values in a YAML: a thousand times what makes sense
Tree = dict[str, Any]
C = TypeVar("C", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML that takes 1e-5 for the number it is, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(doubled)}: given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load_config(
    kind: type[C], *, file: str | None = None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> C:
    """A checked config. Precedence: flag, ``--set``, file, default.

    ``overrides`` are ``dotted.key=yaml`` texts, ``flags`` maps dotted keys to values (None = not given).
    Raises UsageError with one line per mistake: field, value, what is allowed.
    """
    problems: list[str] = []
    tree = _canonical(kind, _read_file(file) if file else {}, f"--config {file}", problems)
    _merge(kind, tree, _canonical(kind, _tree_of_overrides(kind, overrides, problems), "--set", problems))
    _merge(kind, tree, _tree_of_flags(flags or {}, problems))
    return _checked(kind, tree, problems)


def check_config(kind: type[C], tree: Mapping[str, Any]) -> C:
    """A checked config, or section of one, from a plain tree; raises UsageError with one line per mistake."""
    problems: list[str] = []
    return _checked(kind, _canonical(kind, tree, "one place", problems), problems)


def fields_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted key, pydantic field) of a config, sections opened."""
    for name, field in kind.model_fields.items():
        section = _section(kind, name)
        if section is not None:
            yield from fields_of(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _is_open(kind: type[BaseModel], name: Any) -> bool:
    """Whether a config's field is a mapping of any keys, such as ``model.config`` of the finetune job."""
    return name in kind.model_fields and typing.get_origin(kind.model_fields[name].annotation) is dict


def _section(kind: type[BaseModel], name: Any) -> type[BaseModel] | None:
    """The section that a config holds under a name; None for a plain field or an unknown name."""
    annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


# ---- the sources


def _read_file(file: str) -> Tree:
    try:
        with open(os.path.expanduser(file), "rb") as handle:
            text = handle.read(MAX_SIZE + 1).decode()
        if len(text) > MAX_SIZE:
            raise ValueError(f"more than {MAX_SIZE:,} bytes")
        tree = _yaml(text)
    except OSError as error:
        raise UsageError(f"--config {file}: cannot be read ({error.strerror}); give a YAML file") from None
    except ValueError as error:
        where = " ".join(str(error).split())
        raise UsageError(f"--config {file}: is not YAML ({where})") from None
    if tree is not None and not isinstance(tree, dict):
        raise UsageError(f"--config {file}: must hold a mapping such as 'input: {{uri: photos}}'")
    return tree or {}


def _yaml(text: str) -> Any:
    """The value of a YAML text; ValueError when it has none."""
    try:
        return parse_yaml(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of a YAML text from anywhere. Raises ValueError, YAMLError, RecursionError when it has none, and where
    aliases of aliases would make it endless for whoever looks at it.
    """
    value = yaml.load(text, loader)
    if sum(1 for _ in itertools.islice(_nodes(value), MAX_SIZE + 1)) > MAX_SIZE:
        raise ValueError(f"its aliases make more than {MAX_SIZE:,} values")
    return value


def _nodes(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ():
        yield from _nodes(item)


def _tree_of_overrides(kind: type[BaseModel], overrides: Sequence[str], problems: list[str]) -> Tree:
    texts = {key for key, field in fields_of(kind) if _takes_text(field.annotation)}
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"--set {override}: must be dotted.key=value, e.g. --set model.precision=bf16")
            continue
        try:
            _assign(tree, key, text if key in texts else _yaml(text), f"--set {override}", problems)
        except ValueError:
            problems.append(f"--set {override}: the value is not YAML; quote it: --set 'key=[0, 5]'")
    return tree


def _takes_text(annotation: Any) -> bool:
    """Whether a field is plain text, optional or not."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation)) == {str, type(None)}
    return annotation is str


def _tree_of_flags(flags: Mapping[str, Any], problems: list[str]) -> Tree:
    tree: Tree = {}
    for key, value in flags.items():
        if value is not None:
            _assign(tree, key, value, key, problems)
    return tree


def _assign(tree: Tree, key: str, value: Any, where: str, problems: list[str]) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            problems.append(f"{where}: {section} was given a value before, and cannot hold {last} too")
            return
    tree[last] = value


def _canonical(
    kind: type[BaseModel], tree: Mapping[str, Any], where: str, problems: list[str], prefix: str = ""
) -> Tree:
    """The tree in our words instead of transformers'; a key and its alias together are a mistake."""
    key_aliases, value_aliases = (kind.key_aliases, kind.value_aliases) if issubclass(kind, Section) else ({}, {})
    ours: Tree = {}
    for name, value in tree.items():
        key, section = key_aliases.get(name, name), _section(kind, name)
        if key != name and key in tree:
            problems.append(f"{prefix}{key} and its alias {prefix}{name} are both given in {where}: keep one of them")
            continue
        if (
            section is not None or _is_open(kind, name)
        ) and value is None:  # a section whose keys are all commented out
            value = {}
        if section is not None and isinstance(value, Mapping):
            value = _canonical(section, value, where, problems, f"{prefix}{name}.")
        if isinstance(value, str):
            value = value_aliases.get(key, {}).get(value, value)
        ours[key] = value
    return ours


def _merge(kind: type[BaseModel], base: Tree, over: Mapping[str, Any]) -> None:
    """Lay one source over another: sections key by key, everything else whole (a size is not mixed with another)."""
    for key, value in over.items():
        section = _section(kind, key)
        if _is_open(kind, key) and isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            base[key] = _overlaid(base[key], value)
        elif section is None or not isinstance(value, Mapping):
            base[key] = value
        elif isinstance(base.setdefault(key, {}), dict):  # else what lies below is a mistake, and stays to be told
            _merge(section, base[key], value)


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """A mapping of any keys with another laid over it, at every depth."""
    tree = dict(base)
    for key, value in over.items():
        below = tree.get(key)
        tree[key] = _overlaid(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return tree


# ---- the check


def _checked(kind: type[C], tree: Tree, problems: list[str]) -> C:
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise UsageError("\n".join([*problems, *_lines_of(error, kind, tree)])) from None
    if problems:
        raise UsageError("\n".join(problems))
    return config


def _lines_of(error: ValidationError, kind: type[BaseModel], tree: Tree) -> list[str]:
    """One line per mistaken field, though pydantic has an error per branch of a union and per item of a list."""
    known = dict(fields_of(kind))
    reasons: dict[str, list[str]] = {}
    lines: dict[str, str] = {}
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        key = _known_prefix(place, known)
        reasons.setdefault(key, []).append(item["msg"][:1].lower() + item["msg"][1:])
        if item["type"] == "conflict":  # between fields of a section, which the message names
            lines[item["msg"]] = item["msg"]
            continue
        if item["type"] == "missing" and key == ".".join(place):
            needed = [name for name in known if name == key or name.startswith(f"{key}.")]
            lines |= {
                name: f"{name}: is not given; {_allowed(known[name])}" for name in needed if known[name].is_required()
            }
        elif key in known:
            reason = f" ({reasons[key][0]})" if len(set(reasons[key])) == 1 else ""
            lines[key] = f"{key}: {_value(tree, key)!r} is not allowed{reason}; {_allowed(known[key])}"
        elif item["type"] == "extra_forbidden":
            lines[key] = f"{key}: unknown key (value {item['input']!r}); {_near(key, known)}"
        else:
            below = ", ".join(name for name in known if name.startswith(f"{key}."))
            lines[key] = f"{key}: {item['input']!r} is not allowed; allowed: a mapping of {below or 'texts'}"
    return list(lines.values())


def _known_prefix(parts: list[str], known: Mapping[str, Any]) -> str:
    """The dotted key of an error's place, without pydantic's names for the branches of a union."""
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)


def _value(tree: Tree, key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def _near(key: str, known: Mapping[str, Any]) -> str:
    """The known key or section of a name like this one, its own section's first; else those that stand beside it."""
    section, _, last = key.rpartition(".")
    beside = [name for name in known if name.startswith(f"{section}.")] or list(known)
    sections = dict.fromkeys(name.partition(".")[0] for name in known)
    by_last = {name.rpartition(".")[2]: name for name in [*sections, *known, *beside]}
    return did_you_mean(last, by_last) or f"known keys: {', '.join(beside)}"


def _allowed(field: Any) -> str:
    return f"allowed: {field.description}" if field.description else "see --help"
