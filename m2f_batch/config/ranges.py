"""Says in words which values a config field takes, and what is wrong with one that it does not take."""

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

NO_WHOLE, NO_NUMBER, NO_TRUTH = "no whole number", "no number", "neither true nor false"
# by pydantic's kinds of errors. Others, such as bounds, say it well themselves
WRONG: Mapping[str, str] = {
    "int_type": NO_WHOLE,
    "int_parsing": NO_WHOLE,
    "int_from_float": NO_WHOLE,
    "float_type": NO_NUMBER,
    "float_parsing": NO_NUMBER,
    "number_type": NO_NUMBER,
    "finite_number": NO_NUMBER,
    "bool_type": NO_TRUTH,
    "bool_parsing": NO_TRUTH,
    "string_type": "no text",
    "string_too_short": "empty",
    "literal_error": "",
    "format": "",
    "string_pattern_mismatch": "",
    "tuple_type": "no list",
    "frozen_set_type": "no list",
    "dict_type": "no mapping",
    "model_type": "no mapping",
    "missing": "a part is missing",
}


@dataclass(frozen=True)
class Values:
    """The values of a field whose type does not say them, in words.

    Attributes:
        words: what stands behind "allowed:".
        choices: all of them, where they are few. They are looked up each time, because files may add some.
    """

    words: str = ""
    choices: Callable[[], Sequence[str]] = tuple


def allowed_values(field: FieldInfo) -> str:
    """Say which values a field takes, nothing where its type is plain text, whose description says them.

    >>> from m2f_batch.config.segment import ComputeConfig, PostprocessConfig
    >>> allowed_values(ComputeConfig.model_fields["actors"])
    'a whole number from 1, or two of them, [min, max]'
    >>> allowed_values(PostprocessConfig.model_fields["mask_threshold"])
    'a number above 0 and below 1'
    """
    return _words(field.annotation, field.metadata)


def choices_of(field: FieldInfo) -> list[str]:
    """Return the texts among which a field chooses, none where it takes others, too."""
    return [*_choices(field.annotation, field.metadata)]


def what_is_wrong(kinds: Sequence[tuple[str, str]]) -> str:
    """Say what is wrong with a value of which pydantic says ``kinds``: types of errors with their messages.

    Of a field of several types each says what it misses. Nothing is said unless they agree.
    """
    reasons = {WRONG.get(kind, message.replace("Input should", "it must")) for kind, message in kinds}
    reasons = {reason[:1].lower() + reason[1:] for reason in reasons}
    return reasons.pop() if len(reasons) == 1 else ""


def default_of(field: FieldInfo) -> str:
    """Return the default of a config field for help, nothing where there is none or an empty one."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default in (None, (), {}):
        return ""
    if isinstance(default, bool):
        return f" [{str(default).lower()}]"
    return f" [{list(default) if isinstance(default, tuple) else default}]"


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    for each in metadata:
        if isinstance(each, Values):
            return each.words or _joined(each.choices())
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(parts[0], [*_flat(parts[1:]), *metadata])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(dict.fromkeys(filter(None, (_words(part, metadata) for part in _given(parts)))))
    if origin is typing.Literal:
        return _joined([str(part) for part in parts])
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"[{', '.join(_words(part) for part in parts)}]"
    if origin in (tuple, frozenset):
        each_one = _words(parts[0])
        return f"a list, each item {each_one}" if each_one else "a list"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    return f"{kinds[annotation]}{_bounds(metadata)}" if annotation in kinds else "a mapping" if origin is dict else ""


def _bounds(metadata: Sequence[Any]) -> str:
    """Say the bounds of a number."""
    low = [f"from {each.ge}" for each in metadata if isinstance(each, Ge)]
    low += [f"above {each.gt}" for each in metadata if isinstance(each, Gt)]
    high = [f"to {each.le}" for each in metadata if isinstance(each, Le)]
    high += [f"below {each.lt}" for each in metadata if isinstance(each, Lt)]
    multiple = [f"a multiple of {each.multiple_of}" for each in metadata if isinstance(each, MultipleOf)]
    joint = " " if low and high and low[0].startswith("from") and high[0].startswith("to") else " and "
    return "".join([*(f", {each}," for each in multiple), " " if low or high else "", joint.join([*low, *high])])


def _joined(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _given(parts: Sequence[Any]) -> list[Any]:
    return [part for part in parts if part is not type(None)]


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def _choices(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[str]:
    for each in metadata:
        if isinstance(each, Values):
            yield from each.choices()
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        yield from map(str, parts)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in _given(parts):
            yield from _choices(part)
