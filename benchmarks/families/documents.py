"""Writes the measured speed of each family into a table of docs/guides/models.md.

python -m benchmarks.families.documents
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.families.cases import ALL
from benchmarks.lib.timing import PROJECT, RESULTS

DOCUMENT = PROJECT / "docs" / "guides" / "models.md"
BESIDE = "parameters and quality, as published"  # the column that the measured one follows
COLUMN = "times as fast as transformers, measured"
UNMEASURED = "not measured yet"


def result_of(device: str) -> Path:
    """The file that keeps what was measured on a kind of device."""
    return RESULTS / ("families.json" if device == "cpu" else f"families-{device}.json")


def figures(device: str = "cpu") -> dict[str, Any]:
    """The newest result by the name of each case. Empty before there is one."""
    result = result_of(device)
    found: dict[str, Any] = json.loads(result.read_text())["families"] if result.exists() else {}
    return found


def cell_of(row: str, measured: Mapping[str, Any]) -> str:
    """What a row of the table says of speed."""
    cases = [case for case in ALL if case.row == row and case.name in measured]
    return "; ".join(f"{case.name}: {_sentence(measured[case.name])}" for case in cases) or UNMEASURED


def _sentence(measured: Mapping[str, Any]) -> str:
    job = measured["job"]
    times = f"forward {_short(measured['forward']['transformers / ours'][0])}"
    if post := [each["transformers / ours"][0] for each in measured["post"]]:
        low, high = _short(min(post)), _short(max(post))
        times += f", post-processing {low if low == high else f'{low} to {high}'}"
    return f"{times}, whole job {_short(min(job['one by one / ours'][0], job['batched / ours'][0]))}"


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def with_speeds(text: str, measured: Mapping[str, Any]) -> str:
    """The document with the column as it is measured, and without it where nothing is. Raises StopIteration.

    That is raised where no table has the column that it follows.
    """
    lines = text.splitlines()
    head = next(at for at, line in enumerate(lines) if BESIDE in _cells(line))
    width = _cells(lines[head]).index(BESIDE) + 1
    for number, line in enumerate(lines[head:], start=head):
        if not line.startswith("|"):
            break
        cells = _cells(line)[:width] + [_added(line, measured)] * bool(measured)
        lines[number] = f"|{'|'.join(cells)}|" if _is_rule(line) else f"| {' | '.join(cells)} |"
    return "\n".join(lines) + "\n"


def _added(line: str, measured: Mapping[str, Any]) -> str:
    """What the measured column says in a line of the table."""
    if _is_rule(line):
        return "---"
    return COLUMN if BESIDE in _cells(line) else cell_of(line.split("`")[1], measured)


def _is_rule(line: str) -> bool:
    return line.startswith("|--")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main() -> int:
    """Write what the newest result says."""
    DOCUMENT.write_text(with_speeds(DOCUMENT.read_text(), figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
