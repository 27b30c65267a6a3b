"""Makes configs of arguments, and messages of their keys in the words of Python."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from m2f_batch.config.data import DataConfig
from m2f_batch.config.finetune import FinetuneConfig, LintConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.config.keywords import Place, check_arguments, keywords_of, place_of
from m2f_batch.config.loading import check_config, load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import ArgumentError, without_flags
from m2f_batch.result import Outcome, Totals
from m2f_batch.runs.reader import Run

Config = Place | Mapping[str, object]  # a YAML file, or what it would hold
Job = TypeVar("Job", SegmentConfig, FinetuneConfig, LintConfig)


def _formats(option: str) -> dict[str, str]:
    """Return how each annotation format is given in Python, by how it is given elsewhere."""
    return {f"{option}{form}": f"format={form!r}" for form in read_formats()}


OF_SEGMENT = keywords_of(SegmentConfig, images="input.uri", output="output.uri", model="model.uri")
# DATASET comes before its key, which so is what the argument stands for
OF_FINETUNE = {
    "DATASET": "dataset",
    **keywords_of(
        FinetuneConfig, dataset="data.train", output="output.uri", model="model.uri", model_config="model.config"
    ),
    **_formats("data.format="),
}
# what stands for an argument on the command line, besides flags
_OF_COMMANDS = {"RUN": "run", "DEST": "dest", "SRC": "source", "--from": "format"}
# keys of annotated images that no training is of
_OF_DATA = {
    **{f"data.{name}": name for name in DataConfig.model_fields},
    **{"data.train_images": "images", "data.train_masks": "masks", "input.max_pixels": "max_pixels"},
}
OF_RUN = {
    **OF_SEGMENT,
    **_OF_COMMANDS,
    **_OF_DATA,
    "data.train": "ground_truth",
    "--partial": "partial=True",
} | _formats("--format ")
OF_LINT = {**OF_FINETUNE, **_OF_COMMANDS}
OF_CONVERT = {
    **_OF_COMMANDS,
    **_OF_DATA,
    "data.train": "source",
    "data.split_seed": "seed",
    "split_seed": "seed",
} | _formats("--from ")


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
    check_arguments(settings, keys, names, "config= takes any key")
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


def reading_of(**given: object) -> dict[str, Any]:
    """Return arguments that are keys of the config's section ``data``, checked. None is not given."""
    keys = {name: _plain(value) for name, value in given.items() if value is not None}
    made = check_config(DataConfig, {"train": "-", **keys})
    return {name: getattr(made, name) for name in given}


def several(names: str | Iterable[str], argument: str, allowed: str = "a name, or a list of names") -> list[str]:
    """Return names as a list. A single text is one name. Raises ArgumentError for what are no texts.

    ``allowed`` says which names there are.

    >>> several("ap", "metrics"), several(("ap", "dice"), "metrics")
    (['ap'], ['ap', 'dice'])
    """
    is_one = isinstance(names, str) or not isinstance(names, Iterable)
    return [name_of(each, argument, allowed) for each in ([names] if is_one else names)]


def name_of(name: object, argument: str, allowed: str = "a text") -> str:
    """Return a name as it is. Raises ArgumentError for what is no text."""
    if not isinstance(name, str):
        raise ArgumentError(f"is of type {type(name).__name__}", field=argument, allowed=allowed)
    return name


def uri_of(run: Place | Run) -> str:
    """Return the place of a run, also of one that was opened. Raises ArgumentError for what is neither."""
    return run.uri if isinstance(run, Run) else place_of(run, "run", "a path, a URI, or a Run of open_run")


def text_of(place: Place | None, name: str) -> str | None:
    """Return ``place_of`` of a place that need not be given."""
    return None if place is None else place_of(place, name)


def in_python(outcome: Outcome[Totals], names: Mapping[str, str]) -> Outcome[Totals]:
    """Return an outcome whose texts have the ``names`` of arguments."""
    error = None if outcome.error is None else without_flags(outcome.error, names)
    return replace(outcome, error=error, warnings=tuple(without_flags(text, names) for text in outcome.warnings))
