"""Reads names of classes: from a file (JSON, YAML or one per line), or as a config or a data.yaml gives them."""

import contextlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from m2f_batch.config import yaml_values
from m2f_batch.config.data import is_inline
from m2f_batch.datasets import files
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.json_text import parse_json
from m2f_batch.storage.places import stat_many

IGNORED_NAME = "__ignore__"
BESIDE = tuple(  # what a file of names beside a folder of masks is called
    f"{stem}.{extension}"
    for stem in ("names", "classes", "labels", "class_names", "id2label")
    for extension in ("txt", "json", "yaml", "yml")
)
# keys under which a JSON or YAML keeps its names. The last two are COCO's and Mapillary Vistas'
_KEYS = ("names", "classes", "id2label", "categories", "labels")
_FORMS = f"a list of names, a mapping of ids to names, or such a one under one of {', '.join(_KEYS)}"
_SHOWN = 60  # letters of a value in a message
_MOST_BESIDE = 100_000  # bytes, because a larger file that has such a name is something else

Given = str | Sequence[Any] | Mapping[Any, Any]


class _Texts(yaml.BaseLoader):
    """YAML whose scalars stay the texts that they are: ``yes``, ``007`` and ``1e5`` are names."""


def given_names(given: Given, field: str) -> dict[int, str]:
    """Returns names by id of a file, an inline text ("[ball, crate]", "{0: ball}"), a list or a mapping.

    Raises UsageError, which begins with ``field``.
    """
    if not isinstance(given, str):
        return names_of(dict(given) if isinstance(given, Mapping) else [*given], field)
    if is_inline(given):
        return names_of(parse_texts(given, field), field)
    with files.or_written("names are also written '[ball, crate]'"):
        return read_names(uris.normalize(given), field)


def read_names(uri: str, field: str) -> dict[int, str]:
    """Names by id. Lists and lines count from 0, or from -1 where the first one is ``__ignore__``, as labelme has it.

    Raises UsageError, which begins with ``field``.
    """
    text, extension = files.read_text(uri, field), posixpath.splitext(uri)[1].lower()
    if extension == ".txt":
        found: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        where = repr(uri)
        found = parse_json(text, where, field=field) if extension == ".json" else parse_texts(text, where, field=field)
    if isinstance(found, dict):
        found = next((found[key] for key in _KEYS if key in found), found)
    try:
        return names_of(found)
    except UsageError as error:  # of no field so far
        raise UsageError(f": {error}", field=field, value=uri) from None


def names_of(found: Any, field: str = "") -> dict[int, str]:
    """Reads names by id from a list or a mapping. In a list of mappings each has a 'name', and may have an 'id'.

    >>> names_of(["ball", 7]), names_of({"3": "ball"}), names_of([{"id": 2, "name": "a"}])
    ({0: 'ball', 1: '7'}, {3: 'ball'}, {2: 'a'})
    """
    if isinstance(found, list):
        found = _counted(found, field)
    if not isinstance(found, dict) or not found:
        raise UsageError(f"wanted {_FORMS}", field=field)
    names = {}
    for key, name in found.items():
        text = str(name) if type(name) in (int, float) else name
        if isinstance(name, bool):
            raise UsageError(
                f": {name!r} is no name", field=field, value=key, hint="put a name such as 'yes' or 'on' in quotes"
            )
        if not files.is_text(text) or not _is_id(key):
            value = repr(name)[:_SHOWN]
            raise UsageError(f": {value}: ids must be whole numbers and names must be texts", field=field, value=key)
        names[int(key)] = text.strip()
    if len(names) < len(found):
        raise UsageError("an id comes twice", field=field)
    return dict(sorted(names.items()))


def _counted(found: list[Any], field: str) -> dict[Any, Any]:
    if all(isinstance(entry, dict) and "name" in entry and "id" not in entry for entry in found):
        found = [entry.get("readable", entry["name"]) for entry in found]  # as models of Mapillary Vistas call them
    entries = [entry for entry in found if isinstance(entry, dict) and "id" in entry and "name" in entry]
    if not entries or len(entries) < len(found):
        return dict(enumerate(found, -1 if found[:1] == [IGNORED_NAME] else 0))
    if len({str(entry["id"]) for entry in entries}) < len(entries):
        raise UsageError("an id comes twice", field=field)
    return {entry["id"]: entry["name"] for entry in entries}


def _is_id(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.lstrip("-").isdecimal())


def names_beside(folder: str) -> tuple[str, dict[int, str]] | None:
    """Finds the file of names in a folder of masks, else in the folder above it, and reads it. None: there is none.

    Files that only have the name of one, such as a list of images, are passed over.
    """
    for uri in there_beside(folder, BESIDE):
        with contextlib.suppress(UsageError):
            return uri, read_names(uri, "data.train")
    return None


def there_beside(folder: str, wanted: Sequence[str]) -> list[str]:
    """Finds the small files of ``wanted`` names in a folder, then in the one above it. All are asked for at once."""
    asked = [uris.join(place, name) for place in (folder, uris.parent(folder)) for name in wanted]
    return [entry.uri for entry in stat_many(asked) if entry is not None and entry.size <= _MOST_BESIDE]


def parse_yaml(text: str, where: str, *, field: str = "") -> Any:
    """Returns the parsed text. Raises UsageError of ``field``, which calls the text ``where``."""
    return _parsed(text, where, field, yaml.SafeLoader)


def parse_texts(text: str, where: str, *, field: str = "") -> Any:
    """Returns the parsed text, with each scalar as the text that it is. Raises UsageError as ``parse_yaml`` does."""
    return _parsed(text, where, field, _Texts)


def _parsed(text: str, where: str, field: str, loader: type[Any]) -> Any:
    try:
        return yaml_values.parse_yaml(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}", field=field) from error
