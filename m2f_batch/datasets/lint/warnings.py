"""Warns of faults in annotations that harm training without stopping it. Reads no image."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.datasets.lint.masks import Setting, mask_findings, queries_wanted
from m2f_batch.datasets.lint.splits import group_findings, name_findings
from m2f_batch.errors import Plain, UsageError
from m2f_batch.models.family import new_queries
from m2f_batch.storage.json_text import read_json_object

_TELLING = 24  # characters of an image's masks: fewer may be two images' by chance


def queries_of(changes: Mapping[str, Any], checkpoint: Path | None) -> int:
    """Gives the queries of the model of a training: of ``model.config``, the checkpoint's directory, or a new one."""
    value = changes.get("num_queries")
    if value is None and checkpoint is not None and (checkpoint / "config.json").is_file():
        text = (checkpoint / "config.json").read_bytes()
        value = read_json_object(text, f"config.json of {checkpoint}", field="model.uri").get("num_queries")
    return value if type(value) is int else new_queries()


def check_queries(queries: int | None) -> None:
    """Raises UsageError for a number of queries that no model has."""
    if queries is not None and (type(queries) is not int or queries < 1):
        raise UsageError(f"must be 1 or more; got {queries!r}", field="--queries")


def enough_queries(train: Dataset, val: Dataset | None, *, is_semantic: bool) -> str:
    """Returns the setting with which every object of every image has a query of its own, rounded up to ten."""
    rows = (row for dataset in (train, val) if dataset is not None for row in dataset.rows())
    most = max((queries_wanted(row, is_semantic=is_semantic) for row in rows), default=0)
    return f"model.config.num_queries={math.ceil(most / 10) * 10} is enough for every image"


def warnings_of(train: Dataset, val: Dataset | None, setting: Setting, group_by: str | None) -> list[str]:
    """Gives one line for each kind of fault, for a person, without reading an image.

    Raises UsageError where ``group_by`` is given and a group is in both splits.
    """
    found: dict[str, list[Finding]] = {}
    for finding in _findings(train, val, setting):
        if KINDS[finding.kind].is_fault:
            found.setdefault(finding.kind, []).append(finding)
    if val is not None and group_by is not None:
        shared = [*group_findings(train, val, group_by)]
        if shared:
            others = f" ({len(shared):,} such groups)" if len(shared) > 1 else ""
            advice = KINDS["group-on-both-sides"].advice
            raise UsageError(
                f"is on both sides: {shared[0].text}{others}; {advice}",
                field="data.group_by",
                value=Plain(shared[0].where),
            )
    effects = {kind: KINDS[kind].effect for kind in found}
    if (kind := "more-objects-than-queries") in found:
        effects[kind] += f", and {enough_queries(train, val, is_semantic=setting.is_semantic)}"
    return [
        f"warning {kind}: {len(several):,} ({several[0]}); {effects[kind]}; m2f-batch lint shows all"
        for kind, several in found.items()
    ]


def _findings(train: Dataset, val: Dataset | None, setting: Setting) -> Iterator[Finding]:
    yield from name_findings(train, "data.train")
    known: dict[tuple[object, ...], str] = {}
    for dataset in (train, val):
        own: dict[tuple[object, ...], str] = {}
        for row in dataset.rows() if dataset is not None else ():
            yield from mask_findings(row, train.categories, (), setting)
            masks = tuple(segment["counts"] for segment in row["segments"])
            if sum(map(len, masks)) < _TELLING:
                continue
            key = (row["height"], row["width"], hash(masks))
            if key in own:
                yield Finding("identical-images", row["uri"], f"has the masks of {own[key]}, to the pixel")
            elif key in known:
                yield Finding("leaked-image", row["uri"], f"has the masks of {known[key]}, which is trained on")
            own[key] = row["uri"]
        known = own
