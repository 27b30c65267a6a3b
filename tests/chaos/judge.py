"""Whether a run that was disturbed ended as one that never was."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from drivers import environment_of, run_command
from storages import Storage, rows_of

from m2f_batch.records import Row

VERIFY_SECONDS = 300
RESULT = re.compile(r"annotations/[0-9a-f]{32}\.parquet")


@dataclass(frozen=True)
class Verdict:
    """Images without a row, rows beyond the first of an image, rows that differ; and all that is wrong, as text."""

    rows: int
    lost: int
    doubled: int
    changed: int
    problems: tuple[str, ...]


def judge(storage: Storage, uri: str, expected: list[Row]) -> Verdict:
    """Compare the rows at ``uri`` with ``expected`` in all columns, look for leftovers, and ask verify."""
    rows = rows_of(storage, uri)
    verdict = compare(rows, expected)
    problems = [*verdict.problems, *leftovers(storage, uri)]
    code, words = run_command(["verify", uri], environment_of(storage.variables), VERIFY_SECONDS)
    if code:
        problems.append(f"verify exits {code}: {words.strip()[-500:]}")
    return Verdict(len(rows), verdict.lost, verdict.doubled, verdict.changed, tuple(problems))


def compare(rows: list[Row], expected: list[Row]) -> Verdict:
    """Rows against those of a run never disturbed."""
    wanted = {row["uri"]: row for row in expected}
    counts = Counter(row["uri"] for row in rows)
    lost = [uri for uri in wanted if not counts[uri]]
    unknown = [uri for uri in counts if uri not in wanted]
    doubled = sum(count - 1 for count in counts.values())
    changed = [row["uri"] for row in rows if row["uri"] in wanted and row != wanted[row["uri"]]]
    problems = [
        *([f"{len(lost)} images without a row, e.g. {lost[0]}"] if lost else []),
        *([f"{len(unknown)} rows of unknown images, e.g. {unknown[0]}"] if unknown else []),
        *([f"{doubled} rows too many"] if doubled else []),
        *([f"{len(changed)} rows differ: {_difference(rows, wanted, changed[0])}"] if changed else []),
    ]
    return Verdict(len(rows), len(lost), doubled, len(changed), tuple(problems))


def _difference(rows: list[Row], wanted: dict[str, Row], uri: str) -> str:
    row = next(row for row in rows if row["uri"] == uri and row != wanted[uri])
    names = [name for name in row if row[name] != wanted[uri].get(name)]
    return f"{uri}: {', '.join(f'{name} {row[name]!s:.120} for {wanted[uri].get(name)!s:.120}' for name in names)}"


def leftovers(storage: Storage, uri: str) -> list[str]:
    """What a finished run must not leave behind, or must have."""
    names = storage.files(uri)
    strays = [name for name in names if name.startswith("annotations/") and not RESULT.fullmatch(name)]
    parts = [name for name in names if name.startswith("_state/parts/")]
    problems = [f"stray file {name}" for name in strays[:3]]
    if parts:
        problems.append(f"{len(parts)} staged parts are left, e.g. {parts[0]}")
    if "_SUCCESS" not in names:
        problems.append("no _SUCCESS")
    info: dict[str, Any] = json.loads(storage.read(f"{uri}/run.json")) if "run.json" in names else {}
    if info.get("images", {}).get("remaining") != 0:
        problems.append(f"run.json says {info.get('images')}")
    return problems
