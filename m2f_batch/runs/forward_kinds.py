"""Counts processes by how they compute: with the fast forward pass, or with transformers' own modules."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

FAST, SLOW = "fast", "slow"


class Forwards:
    """The processes that have labeled something in this attempt. Each reports ``KIND`` or ``KIND: why``."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}  # by process

    def add(self, unit: Mapping[str, Any]) -> str | None:
        """Count the process that labeled a unit, and return a note the first time that it has a reason."""
        process, said = unit.get("replica"), unit.get("forward")
        if process is None or said is None or process in self._said:
            return None
        self._said = {**self._said, process: said}  # a new one: another thread reads it
        kind, _, why = said.partition(": ")
        if not why:
            return None
        if kind == SLOW:
            return f"note    process {process} goes on with transformers' own modules, which are slower: {why}"
        return f"note    process {process} could not check its forward pass: {why}"

    def report(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the counts of all attempts for run.json. ``before`` is what run.json held."""
        before = before or {}
        kinds = Counter({FAST: before.get(FAST, 0), SLOW: before.get(SLOW, 0)})
        why: Counter[str] = Counter(before.get("why"))
        for said in self._said.values():
            kind, _, reason = said.partition(": ")
            kinds[kind] += 1
            why.update([reason] if reason else [])
        return {FAST: kinds[FAST], SLOW: kinds[SLOW], "why": dict(why.most_common())}


def forward_lines(report: Mapping[str, Any] | None) -> Iterator[str]:
    """Say what is notable in ``forward`` of run.json: nothing if every process was fast and checked."""
    if not report or not report["why"]:
        return
    slow, both = report[SLOW], report[FAST] + report[SLOW]
    if slow:
        yield f"{slow:,} of {both:,} processes computed with transformers' own modules, whose rounding is another"
    for reason, count in report["why"].items():
        yield f"{count:,} x {reason}"
