"""Ways of doing the same work timed side by side, and the tables that come of it.

Machines drift, so ways take turns within every round and only ratios within one round are compared.
"""

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "torchvision", "ray", "pycocotools", "numpy", "pillow")


class Ratio(NamedTuple):
    """The time of ``other`` by that of ``ours``, round by round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


class Rounds(NamedTuple):
    """A rule for stopping: after ``most`` rounds, or once ``budget_s`` are spent and there were ``least``."""

    least: int = 3
    most: int = 9
    budget_s: float = 20.0


Seconds = dict[str, list[float]]


def take_turns(ways: Mapping[str, Callable[[], Any]], rounds: Rounds) -> tuple[Seconds, dict[str, Any]]:
    """Seconds of each way per round, and the answer each gave first. Another way begins in every round."""
    seconds: Seconds = {name: [] for name in ways}
    answers: dict[str, Any] = {}
    names, begun = list(ways), time.perf_counter()
    for number in range(rounds.most):
        if number >= rounds.least and time.perf_counter() - begun > rounds.budget_s:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            answer = ways[name]()
            seconds[name].append(time.perf_counter() - started)
            answers.setdefault(name, answer)
            del answer  # the next way must find the memory free
    return seconds, answers


def ratio_of(other: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Ratio per round: median, lowest and highest."""
    ratios = [a / b for a, b in zip(other, ours, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def show_seconds(seconds: Sequence[float]) -> str:
    """The median, with three digits."""
    median = statistics.median(seconds)
    return f"{median * 1000:.3g} ms" if median < 1 else f"{median:.3g} s"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a Markdown table whose columns are the keys of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(threads: int) -> str:
    """Describe the machine and the versions on which figures were taken."""
    import torch

    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {short_commit()}; {model}, {os.cpu_count()} cores, {gpu}; "
        f"{threads} thread{'s' if threads > 1 else ''}, load {os.getloadavg()[0]:.1f}, "
        f"OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}; "
        f"Python {platform.python_version()}, {versions}."
    )


def publish(name: str, title: str, parts: Sequence[str], *, threads: int, quick: bool) -> None:
    """Print a result, and keep it as the part's newest unless it was a quick try (git keeps the older ones)."""
    text = "\n\n".join([f"# {title}", machine(threads), *parts]) + "\n"
    print(f"\n{text}", flush=True)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every part has."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="small sizes and few rounds; nothing is written")
    return options


def say(text: str) -> None:
    """One line of progress, so that a long run is seen to move."""
    print(f"  {text}", flush=True)


def short_commit() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + (" with changes" if _git("status", "--porcelain", "--", "m2f_batch", "benchmarks") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
