"""Figures for people: a line per class, and all of them together."""

from collections.abc import Iterator
from typing import Any

_HIDDEN = ("AR1", "AR10", "ARs", "ARm", "ARl")  # of a class, though JSON has them
_OVERALL = {"IoU": "mIoU"}  # what a column's mean is called


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """The report of a run as lines: what was measured, warnings, a table by class, overall figures."""
    truth = f"{report['ground_truth']} ({report['format']})"
    yield f"{report['run']}: {report['task']}, {report['images']:,} images against {truth}"
    for warning in report["warnings"]:
        yield f"warning: {warning}"
    yield from table(report)
    figures = [f"{name} {shown(value)}" for name, value in report["metrics"].items()]
    yield "overall " + ", ".join(figures)


def table(report: dict[str, Any]) -> Iterator[str]:
    """The classes of a summary, a line each, and ``all``."""
    first, *_ = report["classes"]
    columns = [name for name in first if name not in ("id", "name", "isthing", *_HIDDEN)]
    overall = {name: report["metrics"].get(_OVERALL.get(name, name)) for name in columns}
    wide = max(len("class"), *(len(entry["name"]) for entry in report["classes"]))
    yield "class".ljust(wide) + "".join(f"  {name:>6}" for name in columns)
    for entry in [*report["classes"], {"name": "all", **overall}]:
        cells = (shown(entry[name]).rjust(max(6, len(name))) for name in columns)
        yield entry["name"].ljust(wide) + "".join(f"  {cell}" for cell in cells)


def shown(value: float | None) -> str:
    """Return a figure with three digits, a dash where nothing could be measured.

    >>> shown(0.87249), shown(None)
    ('0.872', '-')
    """
    return "-" if value is None else f"{value:.3f}"
