"""Names of classes from a file: JSON, YAML or one per line."""

import posixpath
from typing import Any

import yaml

from m2f_batch import config_loading
from m2f_batch.datasets import files
from m2f_batch.errors import UsageError
from m2f_batch.storage.manifests import parse_json

EXTENSIONS = ("json", "yaml", "yml", "txt")
_KEYS = ("names", "classes", "id2label")  # where a JSON or YAML with more in it keeps its names
_FORMS = "a list of names, a mapping of ids to names, or such a one under 'names', 'classes' or 'id2label'"


def read_names(uri: str, field: str) -> dict[int, str]:
    """Names by id. Lists and lines count from 0, or from -1 where the first one is ``__ignore__``, as labelme has it.

    Raises UsageError, which begins with ``field``.
    """
    text, extension = files.read_text(uri, field), posixpath.splitext(uri)[1].lower()
    if extension == ".txt":
        found: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        found = parse_json(text, f"{field}: {uri!r}") if extension == ".json" else parse_yaml(text, f"{field}: {uri!r}")
    if isinstance(found, dict):
        found = next((found[key] for key in _KEYS if key in found), found)
    return names_of(found, f"{field}: {uri!r}")


def names_of(found: Any, where: str) -> dict[int, str]:
    """Names by id from a list or a mapping.

    >>> names_of(["ball", "crate"], "names"), names_of({"3": "ball"}, "names")
    ({0: 'ball', 1: 'crate'}, {3: 'ball'})
    """
    if isinstance(found, list):
        first = -1 if found[:1] == ["__ignore__"] else 0
        found = dict(enumerate(found, first))
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{where}: wanted {_FORMS}")
    names = {}
    for key, name in found.items():
        if not files.is_text(name) or not _is_id(key):
            raise UsageError(f"{where}: {key!r}: {name!r}: ids must be whole numbers and names must be texts")
        names[int(key)] = name.strip()
    if len(names) < len(found):
        raise UsageError(f"{where}: an id comes twice")
    return dict(sorted(names.items()))


def _is_id(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.lstrip("-").isdecimal())


def parse_yaml(text: str, where: str) -> Any:
    """The parsed text. Raises UsageError, which begins with ``where``."""
    try:
        return config_loading.parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
