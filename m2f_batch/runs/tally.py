"""Counts rows."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from m2f_batch.inputs.names.images import may_be_stranger

COLUMNS = ("uri", "status", "error", "segments")  # of rows that are counted
NO_IMAGE = frozenset({"decode/NotAnImage", "decode/Empty"})  # reasons of strangers


@dataclass
class Tally:
    """Counts of rows: images with status ok and error, segments, and errors by ``stage/type``.

    ``strangers`` are those of the errors whose name has no extension and that prove to be no image at all: files that
    happened to stand beside the images. Nothing stands beside a URL of the web, which somebody has listed by name.
    """

    ok: int = 0
    error: int = 0
    segments: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    strangers: int = 0

    @property
    def images(self) -> int:
        """Rows in all."""
        return self.ok + self.error

    @property
    def judged(self) -> "Tally":
        """The rows that ``input.max_error_fraction`` counts: all but strangers, unless there is nothing else."""
        return replace(self, error=self.error - self.strangers) if self.images > self.strangers else self

    def reason_lines(self) -> Iterator[str]:
        """Say why images failed, one line each, and which of them do not count against the run."""
        for reason, count in self.reasons.most_common():
            yield f"{count:,} x {reason}"
        if self.judged.error < self.error:
            yield f"{self.strangers:,} not counted by input.max_error_fraction: no image, and no extension in its name"

    def __add__(self, other: "Tally") -> "Tally":
        """Return the sum."""
        return Tally(
            self.ok + other.ok,
            self.error + other.error,
            self.segments + other.segments,
            self.reasons + other.reasons,
            self.strangers + other.strangers,
        )

    def __sub__(self, other: "Tally") -> "Tally":
        """Return the difference."""
        return Tally(
            self.ok - other.ok,
            self.error - other.error,
            self.segments - other.segments,
            self.reasons - other.reasons,
            self.strangers - other.strangers,
        )

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a table with COLUMNS."""
        statuses = Counter(rows["status"].to_pylist())
        self.ok, self.error = self.ok + statuses["ok"], self.error + statuses["error"]
        self.segments += pc.sum(pc.list_value_length(rows["segments"])).as_py() or 0
        for row, error in enumerate(rows["error"].to_pylist()):
            if error:
                reason = f"{error['stage']}/{error['type']}"
                self.reasons[reason] += 1
                self.strangers += reason in NO_IMAGE and may_be_stranger(rows["uri"][row].as_py())


def tally_of_unit(unit: Mapping[str, Any]) -> Tally:
    """Return the counts that came with a unit."""
    return Tally(
        unit["ok"], unit["error"], unit["segments"], Counter(dict(unit["reasons"])), unit.get("strangers") or 0
    )


def tally_in(info: Mapping[str, Any]) -> Tally:
    """Return the counts in a run.json, also in one of a release that counted no strangers."""
    counts = info["images"]
    return Tally(counts["ok"], counts["error"], info["segments"], Counter(info["errors"]), info.get("strangers", 0))
