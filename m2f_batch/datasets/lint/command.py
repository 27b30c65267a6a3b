"""Finds everything that is wrong with a dataset before it costs GPU hours: ``m2f-batch lint``.

Nothing stops at the first fault. Images are read once, in threads, a few at a time. Of each, a digest and a small print
are kept.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.datasets.dataset import Dataset, Stated
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.format import formats
from m2f_batch.datasets.lint.copies import copy_findings
from m2f_batch.datasets.lint.image_checks import check_images, setting_of
from m2f_batch.datasets.lint.images import Seen
from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.datasets.lint.splits import class_findings, counts, group_findings
from m2f_batch.datasets.lint.warnings import queries_of
from m2f_batch.datasets.pixel_cap import pixel_cap
from m2f_batch.datasets.splits.train_val import places_of, read_splits
from m2f_batch.messages.masking import redact
from m2f_batch.models.source import find_model, local_name
from m2f_batch.storage.allow import confine
from m2f_batch.storage.s3.settings import using
from m2f_batch.storage.uris import normalize

_SHOWN = 5  # examples per kind on the screen
_KEPT = 10_000  # in the JSON
# summed up by the readers, and found one by one here
SUMMARIES = ("annotation-id", "box-mismatch")


class Tally:
    """The findings by kind: all are counted, the first of each kind are kept.

    ``annotations`` are those of both splits, once they are read.
    """

    def __init__(self) -> None:
        self.annotations = 0
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        """Counts one more."""
        self.counts[finding.kind] += 1
        kept = self.kept.setdefault(finding.kind, [])
        if len(kept) < _KEPT:
            kept.append(finding)

    def faults(self, ignored: Sequence[str]) -> list[str]:
        """Returns the kinds found that ruin training, less those that are ``ignored``."""
        return [kind for kind in KINDS if self.is_fault(kind) and kind not in ignored]

    def is_fault(self, kind: str) -> bool:
        """Says whether there is so much of a kind that it ruins training."""
        return KINDS[kind].is_fault and self.counts[kind] > KINDS[kind].tolerated * self.annotations


@dataclass(frozen=True)
class Linted:
    """Holds what was found in a dataset, and the splits that it was found in."""

    tally: Tally
    train: Dataset
    val: Dataset | None

    def lines(self, ignored: Sequence[str], *, only_faults: bool = False) -> Iterator[str]:
        """Yields the lines that tell a person what was found, and the total."""
        yield from finding_lines(self.tally, ignored, only_faults=only_faults)
        yield _total(self.train, self.val, self.tally, self.tally.faults(ignored))


def lint(config: FinetuneConfig, queries: int | None, tally: Tally) -> Linted:
    """Finds what is wrong with ``config.data``, and puts it into ``tally`` at once, whatever ends the command.

    ``queries``: of the model, by default as the config says. Raises UsageError for what cannot be read at all.
    """
    storage, data = config.storage, config.data
    with using(storage.s3), confine(storage.allow, places_of(data)), pixel_cap(data.max_pixels):
        return Linted(tally, *find(config, queries or queries_of_training(config), tally))


def queries_of_training(config: FinetuneConfig) -> int:
    """Gives the queries of a training whose model is here: another is not fetched for it."""
    uri = config.model.uri
    here = None if uri is None or not Path(local_name(uri)).is_dir() else Path(find_model(uri).uri)
    return queries_of(config.model.config, here)


def find(config: FinetuneConfig, queries: int, tally: Tally) -> tuple[Dataset, Dataset | None]:
    """Reads everything, puts what is wrong into ``tally`` and returns both splits."""
    data = config.dataset
    form = formats()[data.format]

    def report(finding: Finding) -> None:
        # images without labels that have a row are found below, one by one
        if finding.kind not in SUMMARIES and not (finding.kind == "unlabelled-image" and form.keeps_unlabeled):
            tally.add(finding)

    train, val = read_splits(data, report)
    stated: list[dict[int, list[Stated]]] = []
    for annotations in (data.train, data.val):
        found, findings = form.stated(normalize(annotations)) if annotations is not None and form.stated else ({}, [])
        stated.append(found if annotations is not None else stated[0])
        for finding in findings:
            tally.add(finding)
    splits = [dataset for dataset in (train, val) if dataset is not None]
    tally.annotations = sum(sum(counts(dataset).values()) for dataset in splits)
    setting = setting_of(config.augment, queries, is_semantic=config.model.task == "semantic")
    seen: list[Seen | None] = []
    for dataset, own in zip((train, val), stated, strict=True):
        if dataset is not None:
            seen += check_images(dataset, form, own, setting, tally.add)
    uris = [uri for dataset in splits for uri in dataset.table["uri"].to_pylist()]
    in_val = [number >= train.table.num_rows for number in range(len(uris))]
    found_at_last = [*copy_findings(uris, in_val, seen)]
    if train.table.num_rows:
        found_at_last += class_findings(train, val, data.train)
    if val is not None:
        found_at_last += group_findings(train, val, data.group_by)
    for finding in found_at_last:
        tally.add(finding)
    return train, val


def finding_lines(tally: Tally, ignored: Sequence[str], *, only_faults: bool = False) -> Iterator[str]:
    """Yields the lines of each kind that was found, what it does to a training, and what to do.

    ``only_faults`` leaves out notes, and kinds that are ``ignored``.
    """
    found = tally.faults(ignored) if only_faults else [kind for kind in KINDS if tally.counts[kind]]
    for kind in sorted(found, key=lambda kind: not tally.is_fault(kind)):
        known = KINDS[kind]
        word = "note" if not tally.is_fault(kind) else "ignored" if kind in ignored else "fault"
        yield f"{word:7} {kind}: {tally.counts[kind]:,}"
        yield from (f"          {finding}" for finding in tally.kept[kind][:_SHOWN])
        if tally.counts[kind] > _SHOWN:
            yield f"          and {tally.counts[kind] - _SHOWN:,} more"
        yield f"        training: {known.effect}"
        yield f"        do: {known.advice}"


def _total(train: Dataset, val: Dataset | None, tally: Tally, faults: Sequence[str]) -> str:
    images = f"{train.table.num_rows:,} images to train on"
    images += f" and {val.table.num_rows:,} to validate with" if val is not None else ""
    found = "nothing that ruins training"
    if faults:
        found = f"{len(faults)} kind{'s' if len(faults) > 1 else ''} of fault ({', '.join(faults)})"
    if any(finding.image is not None for kind in faults for finding in tally.kept[kind]):
        found += "; m2f-batch convert --drop-faulty leaves out the images that have them"
    return f"{'faulty' if faults else 'clean':7} {images}, {len(train.categories):,} categories: {found}"


def document_of(config: FinetuneConfig, linted: Linted, ignored: Sequence[str]) -> dict[str, Any]:
    """Returns all that was found, for JSON."""
    tally = linted.tally
    found: list[dict[str, Any]] = [
        {
            "kind": kind,
            "is_fault": tally.is_fault(kind),
            "count": tally.counts[kind],
            "effect": KINDS[kind].effect,
            "advice": KINDS[kind].advice,
            "examples": [
                {"where": redact(finding.where), "text": redact(finding.text)} for finding in tally.kept[kind]
            ],
        }
        for kind in KINDS
        if tally.counts[kind]
    ]
    images = {"train": linted.train.table.num_rows, "val": 0 if linted.val is None else linted.val.table.num_rows}
    faults = len(tally.faults(ignored))
    return {"data": config.data.model_dump(mode="json"), "images": images, "faults": faults, "findings": found}
