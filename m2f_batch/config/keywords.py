"""Names the keys of a config as arguments in Python, and takes places as callers give them."""

import os
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from pydantic import BaseModel

from m2f_batch.config.loading import fields_of
from m2f_batch.config.section import Section
from m2f_batch.errors import ArgumentError, renamed
from m2f_batch.messages.foreign_words import ELSEWHERE, REMARKS, WORDS, canonical, meant_name
from m2f_batch.messages.near_miss import did_you_mean

Place = str | os.PathLike[str]  # a path, or a URI


def keywords_of(kind: type[BaseModel], **own: str) -> dict[str, str]:
    """Return arguments by dotted key: the last part of each key, where no other key of the config has the same.

    ``own`` are arguments with a name of their own, and their keys. transformers' words for a key are arguments too. The
    keys inside of what an argument takes have its name before a dot.

    >>> from m2f_batch.config.segment import SegmentConfig
    >>> names = keywords_of(SegmentConfig, images="input.uri")
    >>> names["postprocess.score_threshold"], names["input.uri"], names.get("output.uri")
    ('score_threshold', 'images', None)
    >>> names["postprocess.threshold"], names["preprocess.window.stride"]
    ('threshold', 'window.stride')
    """
    last = {key: key.rpartition(".")[2] for key in (*dict(fields_of(kind)), *_aliases(kind))}
    count = Counter(last.values())
    names = {key: name for key, name in last.items() if count[name] == 1 and name not in own}
    names |= {key: name for name, key in own.items()}
    return names | {
        f"{key}.{inner}": f"{names[key]}.{inner}"
        for key, field in fields_of(kind)
        if key in names
        for inner in _inner_keys(field.annotation)
    }


def _aliases(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that are transformers' words for others."""
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            yield from (f"{prefix}{name}.{alias}" for alias in section.key_aliases)
            yield from _aliases(section, f"{prefix}{name}.")


def _inner_keys(annotation: object) -> Iterator[str]:
    """Yield the keys of the mappings that a field takes."""
    for each in typing.get_args(annotation):
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield from each.model_fields
        else:
            yield from _inner_keys(each)


def check_arguments(given: Iterable[str], known: Collection[str], names: Mapping[str, str], others: str) -> None:
    """Raise ArgumentError for the first of the ``given`` arguments that is none of the ``known``.

    ``names`` are the arguments by key, and ``others`` says what else there is, where nothing near was meant.
    Remarks about jobs are made only where an argument is the place of a job's images or annotations.
    """
    for name in given:
        if name not in known:
            raise ArgumentError("is no argument", field=name, hint=_instead(name, known, names) or others)


def _instead(name: str, known: Collection[str], names: Mapping[str, str]) -> str:
    """Say what to give instead of an argument that is none, which may be a word of another tool or a mistyped one."""
    word = canonical(name)
    places = {"INPUT": names.get("input.uri"), "DATASET": names.get("data.train")}
    place = next((places[target] for target in WORDS.get(word, ()) if places.get(target)), None)
    meant = None if word in REMARKS else place or meant_name(name, known)
    if meant:
        return f"did you mean {meant}?"
    inputs = places["INPUT"] or places["DATASET"]
    if inputs and (remark := REMARKS.get(word) or ELSEWHERE.get(word)):
        return renamed(remark, {"INPUT": inputs, "OUTPUT": "output"})
    return "there is no such setting" if word in WORDS else did_you_mean(name, known)


def place_of(place: object, name: str, allowed: str = "a path or URI") -> str:
    """Return a place as text. Raises ArgumentError, which names the argument, for what is no place."""
    if not isinstance(place, str | os.PathLike):
        raise ArgumentError(f"is of type {type(place).__name__}", field=name, allowed=allowed)
    return os.fspath(place)
