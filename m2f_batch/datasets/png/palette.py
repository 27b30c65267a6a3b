"""Colors of classes, for masks that are pictures: from a file, or as a config gives them.

A file is JSON or YAML (a mapping of names or ids to [r, g, b] or "#rrggbb", or a list of colors by id), or a text with
a class per line: CVAT's ``labelmap.txt`` (name:r,g,b::), ``name,r,g,b`` or ``r g b name``.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from m2f_batch.config.data import is_inline
from m2f_batch.datasets import files
from m2f_batch.datasets.names import IGNORED_NAME, parse_texts
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.json_text import parse_json

_NUMBERS = r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})"
_LINES = (re.compile(rf"(?P<name>[^:]+):{_NUMBERS}:.*"), re.compile(rf"(?P<name>.*\S)\s*,\s*{_NUMBERS}"))
_REVERSED = re.compile(rf"{_NUMBERS}[\s,]+(?P<name>.*\S)")
_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
# what tools call the file of colors: CVAT and datumaro, and sets with a table of classes
BESIDE = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "palette.json")
_FORMS = "a mapping of names or ids to [r, g, b], or a list of such colors"

Given = str | Sequence[Any] | Mapping[Any, Any]


def given_palette(
    given: Given, names: Mapping[int, str] | None, field: str = "data.palette"
) -> tuple[dict[int, int], dict[int, str] | None]:
    """Reads classes by color, r << 16 | g << 8 | b, and their names. The class -1 is ignored.

    A key is a name, or the id where no class is called so. Without ``names`` the keys that are names count from 0, but
    ``__ignore__``. Raises UsageError, which begins with ``field``.

    >>> given_palette({"ball": [255, 0, 0], "__ignore__": "#000000"}, None)
    ({16711680: 0, 0: -1}, {0: 'ball'})
    """
    entries = _entries(given, field)
    numbers, named = _ids([key for key, _ in entries], names, field)
    classes: dict[int, int] = {}
    for (key, value), number in zip(entries, numbers, strict=True):
        color = _color(value, f"{field}: {key!r}")
        if color in classes:
            raise UsageError(
                f": the color {shown(color)} is also that of class {classes[color]}", field=field, value=key
            )
        classes[color] = number
    return classes, named


def shown(color: int) -> str:
    """Returns a color for a message.

    >>> shown(16711680)
    '[255, 0, 0]'
    """
    return str([color >> 16, color >> 8 & 255, color & 255])


def _ids(keys: Sequence[str], names: Mapping[int, str] | None, field: str) -> tuple[list[int], dict[int, str] | None]:
    if names is None and not all(_is_id(key) for key in keys):
        real = [key for key in keys if key != IGNORED_NAME]
        names = dict(enumerate(real))
        if len({*real}) < len(real):
            raise UsageError("a name comes twice", field=field)
    by_name = {name: number for number, name in (names or {}).items()} | {IGNORED_NAME: -1}
    numbers = []
    for key in keys:
        if key not in by_name and not _is_id(key):
            raise UsageError(
                f"is no name of a class; they are {', '.join((names or {}).values())}", field=field, value=key
            )
        numbers.append(by_name[key] if key in by_name else int(key))
    return numbers, None if names is None else dict(names)


def _is_id(key: str) -> bool:
    return key.isdecimal() or key == "-1"


def _entries(given: Given, field: str) -> list[tuple[str, Any]]:
    found: Any = given
    if isinstance(given, str) and is_inline(given):
        found = parse_texts(given, field)
    elif isinstance(given, str):
        with files.or_written("colors are also written '{ball: [255, 0, 0]}'"):
            found = _read(uris.normalize(given), field)
    if isinstance(found, Mapping) and found:
        return [(str(key), value) for key, value in found.items()]
    if isinstance(found, Sequence) and found and not isinstance(found, str):
        return [(str(number), color) for number, color in enumerate(found)]
    raise UsageError(f"wanted {_FORMS}", field=field)


def _read(uri: str, field: str) -> Any:
    text, extension, where = files.read_text(uri, field), posixpath.splitext(uri)[1].lower(), repr(uri)
    if extension in (".json", ".yaml", ".yml"):
        found = parse_json(text, where, field=field) if extension == ".json" else parse_texts(text, where, field=field)
        return found.get("palette", found) if isinstance(found, dict) else found
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    colors: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        match = next((match for form in (*_LINES, _REVERSED) if (match := form.fullmatch(line))), None)
        if match is None and number:  # the first line may be a heading
            wanted = "wanted 'name,r,g,b', 'r g b name' or 'name:r,g,b::'"
            raise UsageError(f": {line[:60]!r}: {wanted}", field=field, value=uri)
        if match is not None:
            name = match["name"].strip()
            if name in colors:
                raise UsageError(f": {name!r} comes twice", field=field, value=uri)
            colors[name] = [*match.groups()[1:]] if match.re is not _REVERSED else [*match.groups()[:3]]
    return colors


def _color(value: Any, where: str) -> int:
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    parts: Any = [int(part, 16) for part in match.groups()] if match else value
    try:
        red, green, blue = (int(part) for part in parts if not isinstance(part, bool | float))
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise UsageError(f"a color is [r, g, b] of 0 to 255, or '#rrggbb'; got {value!r}", field=where)
    return red << 16 | green << 8 | blue
