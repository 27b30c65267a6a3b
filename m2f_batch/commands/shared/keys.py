"""Adds options and arguments that stand for keys of a config, whose meaning stands in the config alone."""

import argparse
import types
import typing
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from m2f_batch.commands.shared.completion import key_words, offers
from m2f_batch.commands.shared.parser import Parser
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of, load_config
from m2f_batch.config.ranges import choices_of, default_of
from m2f_batch.config.section import Section
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.config.yaml_values import yaml_value
from m2f_batch.errors import UsageError, renamed
from m2f_batch.result import VARIABLE, tell

# keys by what stands for them on the command line: "INPUT", "--retry ERRORS", "--overwrite"
Keys = Mapping[str, str]
Job = TypeVar("Job", SegmentConfig, FinetuneConfig)
JOB_KEYS = {
    "OUTPUT": "output.uri",
    "--model M": "model.uri",
    "--task TASK": "model.task",
    "--address RAY": "compute.address",
    "--overwrite": "output.overwrite",
}


def add_keys(parser: Parser, config: type[Section], keys: Keys, *, has_config: bool = True) -> None:
    """Add an optional argument for each key, with the key's own description as help.

    ``has_config``: the command takes the keys from a config, too, so that users want to know their names.
    """
    fields, words = dict(fields_of(config)), words_of(keys)
    for spec, key in keys.items():
        name, _, metavar = spec.partition(" ")
        kind = _kind(fields[key].annotation)
        has_yaml = has_config and kind is not bool and not _has_text(fields[key].annotation)
        of_value = partial(yaml_of, spec) if has_yaml else kind
        text = renamed(fields[key].description or "", words) + (f" ({key})" if has_config else "")
        text += "" if kind is bool else default_of(fields[key])
        text = text.replace("%", "%%")
        if not name.startswith("-"):
            parser.add_argument(name.lower(), metavar=name, nargs="?", help=text)
        elif kind is bool:
            parser.add_argument(name, action="store_true", default=None, help=text)
        else:
            action = parser.add_argument(name, metavar=metavar, type=of_value, help=text)
            if choices := choices_of(fields[key]):
                offers(action, partial(list, choices))


def add_config(parser: Parser, config: type[Section]) -> None:
    """Add ``--config`` and ``--set``, whose keys are listed below the options."""
    parser.add_argument("--config", metavar="FILE.yaml", help="file of config keys; flags and --set win over it")
    text = "set one config key of those below; may be given several times, and wins over --config"
    action = parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=text)
    offers(action, lambda: key_words(config))
    parser.config = config


def add_result(parser: Parser) -> None:
    """Add ``--result``, of commands that schedulers start."""
    parser.add_argument(
        "--result",
        metavar="FILE",
        help="write totals, OUTPUT, run_id and exit code there as JSON, whatever the end; a file of this machine such "
        f"as /dev/termination-log, or - for the last line of stdout [{VARIABLE}]",
    )


def config_of(kind: type[Job], options: argparse.Namespace, keys: Keys) -> Job:
    """Return the checked config of a job, and tell the result its OUTPUT as soon as that is known."""
    tell(output=options.output)
    config = load_config(
        kind, file=options.config, overrides=options.set, flags=flags_of(options, keys), typed=typed_of(keys)
    )
    tell(output=config.output.uri)
    return config


def typed_of(keys: Keys) -> dict[str, str]:
    """Return what is typed for each key, with the name of its value."""
    return {key: spec for spec, key in keys.items()}


def flags_of(options: argparse.Namespace, keys: Keys) -> dict[str, Any]:
    """Return the values that were typed, by key, with None for each that was not given."""
    return {key: getattr(options, word.strip("-").replace("-", "_").lower()) for key, word in words_of(keys).items()}


def without_address(keys: Keys) -> Keys:
    """Return the flags of a job that is submitted, of which ``--address`` is the cluster's Jobs API."""
    return {spec: key for spec, key in keys.items() if key != JOB_KEYS["--address RAY"]}


def words_of(keys: Keys) -> dict[str, str]:
    """Return what stands for each key on the command line, without the name of its value.

    >>> words_of({"INPUT": "input.uri", "--retry ERRORS": "run.retry"})
    {'input.uri': 'INPUT', 'run.retry': '--retry'}
    """
    return {key: spec.partition(" ")[0] for spec, key in keys.items()}


def yaml_of(spec: str, text: str) -> object:
    """Return the value of a flag as ``--set`` would take it. The config says what else is wrong with it.

    ``spec`` is the flag with the name of its value. Raises UsageError for what is no YAML, and for an empty text or
    null, which would leave the key as if nothing were typed: a script's variable may be unset.
    """
    name = spec.partition(" ")[0]
    try:
        value = yaml_value(text)
    except ValueError:
        hint = "quote it: '{height: 512, width: 512}'"
        raise UsageError("is not YAML", field=name, value=text, hint=hint) from None
    if value is None:
        raise UsageError("is no value", field=name, value=text, hint=f"give {spec}, or leave {name} out")
    return value


def _has_text(annotation: Any) -> bool:
    """Return whether texts are values of a field, and so whatever is typed for it."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return _has_text(parts[0])
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return any(map(_has_text, parts)) if is_union else annotation is str


def _kind(annotation: Any) -> type:
    """Return the type of one value of a field, as it is parsed from a command line."""
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    if len(parts) == 1 or typing.get_origin(annotation) is typing.Annotated:
        return _kind(parts[0])
    return annotation if annotation in (bool, int, float) else str
