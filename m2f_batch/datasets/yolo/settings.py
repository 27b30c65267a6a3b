"""Reads ``data.yaml`` of YOLO: names of classes, and where the images of a split are, as Ultralytics looks for them.

https://docs.ultralytics.com/datasets/. Names are the texts of the file, so ``yes``, ``on`` and ``007`` are names. A
path that is not there is tried as Ultralytics tries it (without its leading ``../``, and ``path`` below the working
directory or a folder of datasets), and as one of another machine, by its last folders below that of ``data.yaml``.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding, Report
from m2f_batch.datasets.format import PART
from m2f_batch.datasets.names import names_of, parse_texts, parse_yaml
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris

_DRIVE = re.compile(r"^[A-Za-z]:")
_PARTS = ("train", "val", "validation", "valid", "test")
_OTHER_NAMES = {"val": ("validation", "valid")}  # of a split, of which Ultralytics takes the first


class Settings(NamedTuple):
    """Of a ``data.yaml``: its place, names of the classes, numbers of a key point line behind its box, all else."""

    place: str
    names: dict[int, str]
    key_points: int | None
    values: dict[str, Any]


def _names(found: Any, place: str) -> dict[int, str]:
    try:
        return names_of(found, "names")
    except UsageError as error:
        raise UsageError(f": {error}", field="data.train", value=place) from None


def read_settings(place: str, report: Report) -> Settings:
    """Returns the settings of a ``data.yaml``. Raises UsageError for a file that is none."""
    text, where = files.read_text(place, "data.train"), repr(place)
    values = parse_yaml(text, where, field="data.train")
    texts = parse_texts(text, where, field="data.train")
    if not isinstance(values, dict) or not ("names" in values or type(values.get("nc")) is int):
        raise UsageError("is no data.yaml of YOLO: it has no 'names'", field="data.train", value=place)
    if isinstance(values.get("masks_dir"), str):
        raise UsageError(
            f": 'masks_dir' is {values['masks_dir']!r}: these are masks of classes, and no outlines",
            field="data.train",
            value=place,
            hint="give data.format=semantic-png, the folder of masks as data.train and this file as data.names",
        )
    if "names" not in values:
        names = {number: f"class_{number}" for number in range(values["nc"])}  # as Ultralytics calls them
    else:
        names = _names(texts["names"], place)
        if type(values.get("nc")) is int and values["nc"] != len(names):
            text = f"'nc' is {values['nc']:,} and 'names' has {len(names):,}: the names are taken"
            report(Finding("class-count", place, text))
    if not names:
        raise UsageError(f": 'nc' is {values['nc']}: there is no class", field="data.train", value=place)
    return Settings(place, names, _key_points(values.get("kpt_shape")), values)


def _key_points(shape: Any) -> int | None:
    """Numbers of the key points in a line, by ``kpt_shape``: [points, 2 or 3 numbers of each]."""
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
    return shape[0] * shape[1] if is_shape else None


def sources_of(settings: Settings, split: str, report: Report) -> list[str]:
    """Returns the folders and lists of images of a split. Raises UsageError where there are none."""
    place, values = settings.place, settings.values
    spellings = (split, *_OTHER_NAMES.get(split, ()))
    found = next((values[name] for name in spellings if values.get(name)), None)
    if found is None:
        found = _unsaid(place, spellings, report)
    if found is None:
        raise _no_part(settings, split)
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
        text = f": {split!r} must be a folder of images, or a list of such"
        raise UsageError(text, field="data.train", value=place, hint="data.train_images names the folder")
    base = values.get("path") or "."
    if not isinstance(base, str):
        raise UsageError(f": 'path' must be a folder; got {base!r}", field="data.train", value=place)
    return [_source(place, base, name, split, report) for name in listed]


def _no_part(settings: Settings, split: str) -> UsageError:
    """The mistake of a split that a ``data.yaml`` does not have, with those that it names."""
    named = [name for name in _PARTS if settings.values.get(name)]
    hint = f"it has {', '.join(named)}" if named else "data.train_images names the folder of the images"
    return UsageError(f"is no part of {settings.place!r}", field=PART, value=split, hint=hint)


def _unsaid(place: str, spellings: tuple[str, ...], report: Report) -> str | None:
    """Finds the usual folder of a split that ``data.yaml`` does not name, as supervision writes it, or None."""
    usual = [folder for name in spellings for folder in (f"images/{name}", f"{name}/images")]
    for folder in [*usual, *(["images"] if spellings[0] == "train" else [])]:
        if files.is_folder(uris.join(uris.parent(place), folder), "data.train"):
            report(Finding("other-name", place, f"{spellings[0]!r} is not in it, and read as {folder!r}"))
            return folder
    return None


def _source(place: str, base: str, name: str, split: str, report: Report) -> str:
    tried = list(dict.fromkeys(_readings(uris.parent(place), base, name)))
    for number, reading in enumerate(tried):
        if files.is_folder(reading, "data.train") or (reading.endswith(".txt") and files.exists(reading)):
            if number:
                at = f" at path {base!r}" if base != "." else ""
                report(Finding("other-name", place, f"{split}: {name!r}{at} is not there, and read as {reading!r}"))
            return reading
    shown = ", ".join(map(repr, tried[:3]))
    raise UsageError(
        f": {split}: {name!r}: there is no such folder or list (looked for at {shown}); "
        "data.train_images names the folder",
        field="data.train",
        value=place,
    )


def _readings(folder: str, base: str, name: str) -> Iterator[str]:
    """Gives the places of a split, from what is written to what is meant. ``folder`` holds the ``data.yaml``."""
    root = uris.join(folder, base)
    yield uris.join(root, name)
    plain, plain_base = (text.replace("\\", "/") for text in (name, base))
    inside = plain
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    spellings = (plain, inside)
    roots = [root, uris.join(folder, plain_base)]
    if not _is_elsewhere(plain_base) and base != ".":
        above = uris.parent(folder)
        beside = (folder, *([] if uris.root(folder) else ["."]), above, f"{folder}/datasets", f"{above}/datasets")
        roots += [uris.join(uris.normalize(place), plain_base) for place in beside]
    for spelling in spellings:
        yield from (uris.join(place, spelling) for place in roots if not _DRIVE.match(spelling))
    # of another machine: the last folders, below here, and of a relative name all of its own
    parts = [part for part in posixpath.join(plain_base, inside).split("/") if part not in ("", ".", "..")]
    own = len([part for part in inside.split("/") if part])
    fewest = min(own, 2) if _is_elsewhere(plain) else own
    for count in range(len(parts), fewest - 1, -1):
        yield uris.join(folder, "/".join(parts[-count:]))


def _is_elsewhere(path: str) -> bool:
    return path.startswith("/") or "://" in path or _DRIVE.match(path) is not None
