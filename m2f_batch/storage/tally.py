"""Counts of rows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass
class Tally:
    """Counts of rows: images with status ok and error, segments, and errors by ``stage/type``."""

    ok: int = 0
    error: int = 0
    segments: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """Rows in all."""
        return self.ok + self.error

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            self.ok + other.ok,
            self.error + other.error,
            self.segments + other.segments,
            self.reasons + other.reasons,
        )

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a table with the columns status, error and segments."""
        statuses = Counter(rows["status"].to_pylist())
        self.ok, self.error = self.ok + statuses["ok"], self.error + statuses["error"]
        self.segments += pc.sum(pc.list_value_length(rows["segments"])).as_py() or 0
        self.reasons.update(f"{error['stage']}/{error['type']}" for error in rows["error"].to_pylist() if error)


def tally_of_unit(unit: Mapping[str, Any]) -> Tally:
    """What a unit's own counts say."""
    return Tally(unit["ok"], unit["error"], unit["segments"], Counter(dict(unit["reasons"])))
