"""The arguments that are keys of a config are a list that is looked at: a new key must not take a name away.

python tests/unit/api/test_settings.py      # writes the list anew
"""

import types
import typing
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from m2f_batch.api import settings
from m2f_batch.api.words import OF_FINETUNE, OF_SEGMENT
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig

FILE = Path(settings.__file__)
# the arguments that stand in the signature
OWN = {"images", "dataset", "output", "model", "task"}
JOBS: dict[str, tuple[Any, dict[str, str], str]] = {
    "SegmentSettings": (SegmentConfig, OF_SEGMENT, "segment"),
    "FinetuneSettings": (FinetuneConfig, OF_FINETUNE, "finetune"),
}


def type_of(annotation: Any) -> str:
    """What a caller may give for a field: a path for a text, a list for a tuple, a mapping for a section."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(inner[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]".replace("'", '"')
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_of, inner)))
    if origin in (tuple, frozenset):
        items = dict.fromkeys(type_of(each) for each in inner if each is not ...)
        return f"{'Sequence' if origin is tuple else 'Collection'}[{' | '.join(items)}]"
    if origin is dict:
        return f"Mapping[{type_of(inner[0])}, {type_of(inner[1])}]"
    if isinstance(annotation, typing.NewType):
        return type_of(annotation.__supertype__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "Mapping[str, object]"
    return {str: "Text", type(None): "None", Any: "object"}.get(annotation) or str(annotation.__name__)


def lines_of(name: str) -> Iterator[str]:
    config, names, job = JOBS[name]
    yield f"class {name}(TypedDict, total=False):"
    yield f'    """The settings of ``{job}``, each with its key."""\n'
    annotations = {key: field.annotation for key, field in fields_of(config)}
    for key, argument in sorted(names.items(), key=lambda pair: pair[1]):
        if argument in OWN or not argument.isidentifier():
            continue
        section, _, last = key.rpartition(".")
        kind = config.model_fields[section].annotation if section in config.model_fields else None
        keys, values = (kind.key_aliases, kind.value_aliases) if kind is not None else ({}, {})
        what = type_of(annotations[f"{section}.{keys.get(last, last)}"])
        also = f" | {type_of(typing.Literal[*values[last]])}" if last in values else ""
        yield f"    {argument}: {what}{also}  # {key}"


def text() -> str:
    head = FILE.read_text().partition("\n\n\nclass ")[0]
    return "\n\n\n".join([head, *("\n".join(lines_of(name)) for name in JOBS)]) + "\n"


def test_every_argument_stays_with_its_type():
    assert FILE.read_text() == text(), "look at what has gone or changed, then run this file"


def test_a_path_a_list_and_a_word_of_transformers_are_typed():
    kinds = typing.get_type_hints(settings.SegmentSettings)
    assert kinds["root"] == str | PathLike[str] | None and kinds["actors"] == int | Sequence[int] | None
    assert "bfloat16" in str(kinds["precision"])
    assert {"threshold", "score_threshold", "window"} <= kinds.keys() and "uri" not in kinds


if __name__ == "__main__":
    FILE.write_text(text())
