"""Prepares the settings and the model of a run.json for one more image on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.source import ModelSource, find_model, local_directory
from m2f_batch.runs.info import RunInfo
from m2f_batch.vision.label_settings import Labeling, PostprocessSettings, installed_versions, settle


@dataclass(frozen=True)
class Setup:
    """A run's settings, and its model as it is now.

    ``labeling`` has the post-processing that the run settled on, whatever the model's files say of it today.
    ``problems`` are the reasons why a run of today's files on ``device`` would have another fingerprint. ``device`` is
    the run's kind where that is to be had here, else the CPU, with the run's ``threads``.
    """

    info: RunInfo
    source: ModelSource
    checkpoint: Checkpoint
    labeling: Labeling
    max_pixels: int
    device: str
    recorded_device: str
    threads: int
    problems: list[str]


def read_setup(info: RunInfo) -> Setup:
    """Return everything that run.json says about how an image is labeled, with the model found again.

    Raises UsageError or RunError when the model is no longer there.
    """
    config, recorded = info.config, info.model
    asked = check_config(ModelConfig, config["model"] | {"task": info.task})
    # the revision of a model in a bucket is a hash of what lies there: looked up again, and compared
    source = find_model(recorded.uri, None if "://" in recorded.uri else recorded.revision)
    checkpoint = read_checkpoint(local_directory(source), asked.uri)
    labeling = settle(
        checkpoint,
        asked,
        check_config(PreprocessConfig, config["preprocess"]),
        check_config(PostprocessConfig, config["postprocess"]),
    )
    facts = info.fingerprint_of
    recorded_device = "cuda" if facts["cpu_threads"] is None else "cpu"
    device = recorded_device if torch.cuda.is_available() else "cpu"
    threads = facts["cpu_threads"] or config["compute"]["threads_per_actor"]
    now = labeling.facts(checkpoint.fingerprint, info.max_pixels, threads if device == "cpu" else None)
    arguments = {key: frozenset(value) if key == "stuff_ids" else value for key, value in info.postprocess.items()}
    return Setup(
        info=info,
        source=source,
        checkpoint=checkpoint,
        labeling=replace(labeling, postprocess=cast("PostprocessSettings", arguments)),
        max_pixels=info.max_pixels,
        device=device,
        recorded_device=recorded_device,
        threads=threads,
        problems=_differences(facts, now),
    )


def changed_versions(setup: Setup) -> list[str]:
    """List packages of another version than in the run. They are no part of the fingerprint, yet can move a pixel."""
    return _differences(setup.info.versions, installed_versions())


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {before.get(name)} in the run, {now.get(name)} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
