"""Writes the measured speed of each family into a table of docs/guides/models.md.

python -m benchmarks.families.documents
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.families.cases import ALL
from benchmarks.lib.timing import PROJECT, RESULTS

DOCUMENT, RESULT = PROJECT / "docs" / "guides" / "models.md", RESULTS / "families.json"
COLUMN = "times as fast as transformers, measured"
UNMEASURED = "not measured yet"


def figures() -> dict[str, Any]:
    """The newest result by the name of each case. Empty before there is one."""
    found: dict[str, Any] = json.loads(RESULT.read_text())["families"] if RESULT.exists() else {}
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
    """The document with the column as it is measured. Raises StopIteration where no table has it."""
    lines = text.splitlines()
    head = next(at for at, line in enumerate(lines) if COLUMN in _cells(line))
    at = _cells(lines[head]).index(COLUMN)
    for number, line in enumerate(lines[head + 2 :], start=head + 2):
        if not line.startswith("|"):
            break
        cells = _cells(line)
        cells[at] = cell_of(line.split("`")[1], measured)
        lines[number] = "|" + "|".join(f" {cell} " for cell in cells) + "|"
    return "\n".join(lines) + "\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main() -> int:
    """Write what the newest result says."""
    DOCUMENT.write_text(with_speeds(DOCUMENT.read_text(), figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
