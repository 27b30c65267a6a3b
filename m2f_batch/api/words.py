"""Makes configs of arguments, and messages of their keys in the words of Python."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.keywords import keywords_of
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import ArgumentError
from m2f_batch.messages.near_miss import did_you_mean
from m2f_batch.runs.reader import Run

Place = str | os.PathLike[str]  # a path, or a URI
Config = Place | Mapping[str, object]  # a YAML file, or what it would hold
Job = TypeVar("Job", SegmentConfig, FinetuneConfig)

OF_SEGMENT = keywords_of(SegmentConfig, images="input.uri", output="output.uri", model="model.uri")
OF_FINETUNE = keywords_of(
    FinetuneConfig, dataset="data.train", output="output.uri", model="model.uri", model_config="model.config"
)
# what stands for an argument on the command line, besides flags
_OF_COMMANDS = {"RUN": "run", "DEST": "dest", "SRC": "source", "--from": "format"}
OF_RUN = {**OF_SEGMENT, **_OF_COMMANDS, "--partial": "partial=True"}
OF_LINT = {**OF_FINETUNE, **_OF_COMMANDS}
OF_CONVERT = {**_OF_COMMANDS, "--split SHARE, e.g. --split 0.8": "split, e.g. split=0.8", "--split SHARE": "split"}


def config_of(
    kind: type[Job],
    names: Mapping[str, str],
    config: Config | None,
    places: Mapping[str, Place | None],
    settings: Mapping[str, object],
) -> Job:
    """Return the checked config of a job. An argument wins over the same key of ``config``.

    ``names`` are the arguments by key, ``places`` those that are paths or URIs, and ``settings`` the others. None is
    not given. Raises UsageError.
    """
    keys = {name: key for key, name in names.items() if name.isidentifier()}
    for name in settings:
        if name not in keys:
            near = did_you_mean(name, {each: each for each in keys})
            raise ArgumentError("is no argument", field=name, hint=near or "config= takes any key")
    given = {name: text_of(place, name) for name, place in places.items()} | {
        name: _plain(value) for name, value in settings.items()
    }
    flags = {keys[name]: value for name, value in given.items() if value is not None}
    return load_config(kind, file=_tree_of(config), flags=flags)


def _tree_of(config: Config | None) -> str | dict[str, Any] | None:
    if isinstance(config, Mapping):
        return {name: _plain(value) for name, value in config.items()}
    return text_of(config, "config")


def _plain(value: Any) -> Any:
    """Return a value as YAML would give it: paths are texts. It shares nothing with what a caller gave."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def several(names: str | Sequence[str]) -> list[str]:
    """Return names as a list. A single text is one name.

    >>> several("ap"), several(("ap", "dice"))
    (['ap'], ['ap', 'dice'])
    """
    return [names] if isinstance(names, str) else [*names]


def uri_of(run: Place | Run) -> str:
    """Return the place of a run, also of one that was opened. Raises ArgumentError for what is neither."""
    return run.uri if isinstance(run, Run) else place_of(run, "run")


def place_of(place: Place, name: str) -> str:
    """Return a place as text. Raises ArgumentError, which names the argument, for what is no place."""
    if not isinstance(place, str | os.PathLike):
        raise ArgumentError(f"is of type {type(place).__name__}", field=name, allowed="a path or URI")
    return os.fspath(place)


def text_of(place: Place | None, name: str) -> str | None:
    """Return ``place_of`` of a place that need not be given."""
    return None if place is None else place_of(place, name)
