"""Config from file, ``--set`` and flags to a checked model; every mistake is reported, all of them at once."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from m2f_batch.config import KEY_ALIASES, VALUE_ALIASES
from m2f_batch.errors import UsageError

Tree = dict[str, Any]
C = TypeVar("C", bound=BaseModel)


def load_config(
    kind: type[C], *, file: str | None = None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> C:
    """A checked config. Precedence: flag, ``--set``, file, default.

    ``overrides`` are ``dotted.key=yaml`` texts, ``flags`` maps dotted keys to values (None = not given).
    Raises UsageError with one line per mistake: field, value, what is allowed.
    """
    tree = _canonical(_read_file(file), file) if file else {}
    _merge(tree, _canonical(_tree_of_overrides(kind, overrides), "--set"))
    _merge(tree, _tree_of_flags(flags or {}))
    return check_config(kind, tree)


def check_config(kind: type[C], tree: Mapping[str, Any]) -> C:
    """A checked config from a plain tree; raises UsageError with one line per mistake."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        known = dict(fields_of(kind))
        lines = list(dict.fromkeys(_line_of(item, known) for item in error.errors()))
        raise UsageError("\n".join(lines)) from None


def fields_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted key, pydantic field) of a config, sections opened."""
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from fields_of(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read_file(file: str) -> Tree:
    try:
        text = Path(file).read_text(encoding="utf-8")
        tree = yaml.safe_load(text) or {}
    except OSError as error:
        raise UsageError(f"--config {file}: cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UsageError(f"--config {file}: is not YAML ({where})") from None
    if not isinstance(tree, dict):
        raise UsageError(f"--config {file}: must hold a mapping such as 'input: {{uri: photos}}'")
    return tree


def _tree_of_overrides(kind: type[BaseModel], overrides: Sequence[str]) -> Tree:
    texts = {key for key, field in fields_of(kind) if _takes_text(field.annotation)}
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {override}: must be dotted.key=value, e.g. --set model.precision=bf16")
        _assign(tree, key, text if key in texts else _yaml_value(override, text), f"--set {override}")
    return tree


def _yaml_value(override: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: the value is not YAML; quote it: --set 'key=[0, 5]'") from None
    if isinstance(value, str):
        try:  # YAML 1.1 takes 1e-5 for text
            return float(value)
        except ValueError:
            pass
    return value


def _tree_of_flags(flags: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for key, value in flags.items():
        if value is not None:
            _assign(tree, key, value, key)
    return tree


def _assign(tree: Tree, key: str, value: Any, where: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{where}: {section} was given a value before, and cannot hold {last} too")
    tree[last] = value


def _canonical(tree: Tree, where: str | None) -> Tree:
    """transformers' words replaced by ours; a key and its alias together are an error."""
    for alias, key in KEY_ALIASES.items():
        section, _, name = key.partition(".")
        branch, other = tree.get(section), alias.partition(".")[2]
        if isinstance(branch, dict) and other in branch:
            if name in branch:
                raise UsageError(f"{key} and its alias {alias} are both given in {where}: keep one of them")
            branch[name] = branch.pop(other)
    for key, words in VALUE_ALIASES.items():
        section, _, name = key.partition(".")
        branch = tree.get(section)
        if isinstance(branch, dict) and isinstance(branch.get(name), str):
            branch[name] = words.get(branch[name], branch[name])
    return tree


def _merge(base: Tree, over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and not _is_whole(key):
            _merge(base[key], value)
        else:
            base[key] = value


def _is_whole(key: str) -> bool:
    """Whether a mapping under this key is one value: a size is replaced, not mixed with another."""
    return key == "size"


def _takes_text(annotation: Any) -> bool:
    """Whether a field is plain text, optional or not."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation)) == {str, type(None)}
    return annotation is str


def _line_of(item: Any, known: Mapping[str, Any]) -> str:
    """One pydantic error as field, value, what is allowed."""
    parts = [str(part) for part in item["loc"]]
    key = _known_prefix(parts, known)
    if item["type"] == "missing" and key not in known:
        missing = [name for name in known if name == key or name.startswith(f"{key}.")]
        needed = [name for name in missing if known[name].is_required()] or [key]
        return "\n".join(f"{name}: is not given; {_allowed(known.get(name))}" for name in needed)
    if item["type"] == "missing":
        return f"{key}: is not given; {_allowed(known.get(key))}"
    if item["type"] == "extra_forbidden" and key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    value = item["input"]
    return f"{key}: {value!r} is not allowed ({item['msg'][:1].lower()}{item['msg'][1:]}); {_allowed(known.get(key))}"


def _known_prefix(parts: list[str], known: Mapping[str, Any]) -> str:
    """The dotted key of an error's place, without pydantic's names for the branches of a union."""
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)


def _allowed(field: Any) -> str:
    return f"allowed: {field.description}" if field is not None and field.description else "see --help"
