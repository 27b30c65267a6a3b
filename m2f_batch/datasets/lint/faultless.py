"""Leaves out the images of a dataset that ``lint`` finds faults with: ``convert --drop-faulty``.

An image is left out whole: an object of it that is left undrawn would be taught as background.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from m2f_batch.config.finetune import AugmentConfig
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.findings import NOTES, Finding, Report
from m2f_batch.datasets.format import formats
from m2f_batch.datasets.lint.copies import copy_findings
from m2f_batch.datasets.lint.image_checks import check_images, setting_of
from m2f_batch.datasets.lint.images import Seen
from m2f_batch.datasets.lint.kinds import KINDS, ignored_kinds
from m2f_batch.datasets.lint.splits import name_findings
from m2f_batch.datasets.lint.warnings import check_queries
from m2f_batch.datasets.masks import areas
from m2f_batch.errors import UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.models.family import new_queries
from m2f_batch.storage.uris import normalize

# kinds of an entry that is of no image, and so left out alone. Other faults of no image are of the whole dataset
_ENTRIES = ("malformed", "unlisted-image", "missing-image", "unreadable-mask")
# gone in what is written, or looked for when it is known what is left
_NO_CAUSE = ("annotation-id", "annotation-id-zero", "duplicate-annotation-id", "nothing-to-learn")


class Dropping(NamedTuple):
    """The rules for faults: ``queries`` of the model to train, and kinds that are ``ignored``, as for lint."""

    queries: int
    ignored: tuple[str, ...] = ()


def dropping_of(is_asked: bool, queries: int | None, ignored: str | None) -> Dropping | None:
    """Returns the options of a command. Raises UsageError for those that mean nothing."""
    kinds = ignored_kinds(ignored or "")
    check_queries(queries)
    for flag, is_given in (("--queries", queries is not None), ("--ignore", ignored is not None)):
        if is_given and not is_asked:
            raise UsageError("goes with --drop-faulty", field=flag)
    return Dropping(queries or new_queries(), kinds) if is_asked else None


@dataclass
class Faultless:
    """The ``rows`` that are left, of so many ``images``, and the faults of what was left out.

    ``entries`` are the faults that are of no image.
    """

    rows: list[Row]
    images: int
    faults: dict[str, list[Finding]] = field(default_factory=dict)
    entries: list[Finding] = field(default_factory=list)
    seen: dict[str, Seen | None] = field(default_factory=dict)
    nothing: str = ""  # why there was nothing to learn before any image was left out

    def drop(self, findings: Iterable[Finding]) -> None:
        """Leaves out the images of findings."""
        for finding in findings:
            self.faults.setdefault(str(finding.image), []).append(finding)
        self.rows = [row for row in self.rows if row["uri"] not in self.faults]

    def drop_leaks(self, splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """Returns ``splits`` without images to validate with that are trained on, too."""
        names = [row["uri"] for rows in splits.values() for row in rows]
        in_val = [False] * len(splits["train"]) + [True] * (len(names) - len(splits["train"]))
        found = copy_findings(names, in_val, [self.seen[name] for name in names])
        self.drop(_of_image(finding) for finding in found if finding.kind == "leaked-image")
        return {split: [row for row in rows if row["uri"] not in self.faults] for split, rows in splits.items()}

    def check(self, splits: dict[str, list[Row]], source: str) -> None:
        """Raises UsageError where a split has nothing left to learn."""
        for split, rows in splits.items():
            if not any(_is_learnable(row) for row in rows):
                first = next((found[0] for found in self.faults.values()), next(iter(self.entries), None))
                example = f", e.g. {first.kind}: {first}" if first else ""
                example += f"; {self.nothing}" if self.nothing else ""
                what = f"nothing to learn is left of {source!r}" + (f" for {split}" if len(splits) > 1 else "")
                raise UsageError(
                    f"{what}: {len(self.faults):,} of {self.images:,} images have faults{example}",
                    field="--drop-faulty",
                )

    def lines(self, place: str) -> list[str]:
        """Gives the lines for a user. ``place`` is the list of what was left out."""
        by_kind = Counter(found[0].kind for found in self.faults.values())
        several = f": {_counted(by_kind)}" if by_kind else ""
        said = [f"left out {len(self.faults):,} of {self.images:,} images{several}; why: {place}"]
        if self.entries:
            kinds = Counter(finding.kind for finding in self.entries)
            said.append(f"left out {len(self.entries):,} entries of no image that is read: {_counted(kinds)}")
        return said

    def table(self) -> bytes:
        """Gives a CSV with a line for each fault: image, kind, where, text. Keys that names may hold are masked."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "kind", "where", "text"])
        lines = [(image, finding) for image, found in sorted(self.faults.items()) for finding in found]
        for image, finding in [*lines, *(("", finding) for finding in self.entries)]:
            writer.writerow(redact(cell) for cell in (image, finding.kind, finding.where, finding.text))
        return text.getvalue().encode(errors="backslashreplace")


def faultless(
    read: Callable[..., Dataset], source: str, form: str, dropping: Dropping, report: Report, *, are_things: bool
) -> tuple[Dataset, Faultless]:
    """Reads a dataset by ``read(report=...)`` and gives its rows, by uri, whose images have no fault.

    ``report`` gets what is no fault of theirs. ``are_things`` is for a target that has no stuff. Raises UsageError for
    what cannot be read at all, and for faults that are of no image.
    """
    found: list[Finding] = []
    dataset = read(report=lambda finding: report(finding) if finding.kind in NOTES else found.append(finding))
    rows = sorted(dataset.rows(), key=lambda row: row["uri"])
    result = Faultless(rows, len(rows))
    result.nothing = next((finding.text for finding in found if finding.kind == "nothing-to-learn"), "")
    _drop_read(result, _faults([*found, *name_findings(dataset, source)], dropping))
    found = []
    setting = setting_of(AugmentConfig(), dropping.queries, is_semantic=False)
    categories = [replace(one, isthing=one.isthing or are_things) for one in dataset.categories]
    known = formats()[form]
    stated = known.stated(normalize(source))[0] if known.stated else {}
    looked = check_images(dataset, known, stated, setting, found.append, categories)
    result.seen = dict(zip(dataset.table["uri"].to_pylist(), looked, strict=True))
    faults = _faults(found, dropping)
    result.drop(one for one in faults if not KINDS[one.kind].tolerated)
    _drop_above_share(result, [one for one in faults if KINDS[one.kind].tolerated])
    names = [row["uri"] for row in result.rows]
    copies = [*copy_findings(names, [False] * len(names), [result.seen[name] for name in names])]
    result.drop(_of_image(one) for one in _faults(copies, dropping))
    return dataset, result


def _faults(findings: Iterable[Finding], dropping: Dropping) -> list[Finding]:
    passed = {*_NO_CAUSE, *dropping.ignored}
    return [one for one in findings if one.kind not in passed and KINDS[one.kind].is_fault]


def _drop_read(result: Faultless, faults: Iterable[Finding]) -> None:
    """Leaves out what readers found fault with. Raises UsageError for what is of no image, and of all."""
    uri_of: dict[str | int | None, str] = {row["image_id"]: row["uri"] for row in result.rows}
    uri_of |= {row["uri"]: row["uri"] for row in result.rows}
    of_images: list[Finding] = []
    for fault in faults:
        image = uri_of.get(fault.image, fault.image)
        if isinstance(image, str):
            of_images.append(replace(fault, image=image))
        elif fault.kind in _ENTRIES:
            result.entries.append(fault)
        elif fault.kind != "box-mismatch":  # a reader's sum of what is found one by one below
            raise UsageError(
                f"{fault} ({fault.kind}): it is of the whole dataset",
                field="--drop-faulty",
                hint="correct it first",
            )
    result.images += len({one.image for one in of_images} - {*uri_of})  # those that readers have left out
    result.drop(of_images)


def _drop_above_share(result: Faultless, findings: Sequence[Finding]) -> None:
    """Leaves out the images with faults of a kind of which more is left than lint bears."""
    kinds = {finding.kind for finding in findings}
    while kinds:
        left = {row["uri"] for row in result.rows}
        objects = sum(not segment["iscrowd"] for row in result.rows for segment in row["segments"])
        ours = [finding for finding in findings if finding.image in left]
        many = Counter(finding.kind for finding in ours)
        too_many = {kind for kind in kinds if many[kind] > KINDS[kind].tolerated * objects}
        if not too_many:
            return
        result.drop(finding for finding in ours if finding.kind in too_many)
        kinds -= too_many


def _of_image(finding: Finding) -> Finding:
    return replace(finding, image=finding.where)


def _is_learnable(row: Row) -> bool:
    alone = [segment["counts"] for segment in row["segments"] if not segment["iscrowd"]]
    return any(areas(alone, (row["height"], row["width"])))


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
