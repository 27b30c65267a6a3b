"""Reads the tables of benchmarks/results, so that pictures and documents take their figures from there."""

import re
from typing import NamedTuple

from benchmarks.lib.timing import RESULTS

Line = dict[str, str]


class Span(NamedTuple):
    """A ratio of a table: the median of its rounds, the lowest and the highest."""

    median: float
    low: float
    high: float


def lines_of(name: str, column: str) -> list[Line]:
    """Lines of the table of a result that has ``column``, as texts by column. Raises KeyError without such a table."""
    text = (RESULTS / f"{name}.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        if column in head:
            return [dict(zip(head, line, strict=True)) for line in body]
    raise KeyError(f"{name}: no table has a column {column!r}")


def line_of(name: str, column: str, **wanted: str) -> Line:
    """Return the only line whose cells are ``wanted``, with ``_`` for blanks in their columns' names."""
    cells = {key.replace("_", " "): value for key, value in wanted.items()}
    (line,) = [line for line in lines_of(name, column) if cells.items() <= line.items()]
    return line


def span(text: str) -> Span:
    """Read a cell such as "100 (55.8-145)"."""
    median, low, high = re.fullmatch(r"([\d.e+]+) \(([\d.e+]+)-([\d.e+]+)\)", text).groups()  # type: ignore[union-attr]
    return Span(float(median), float(low), float(high))
