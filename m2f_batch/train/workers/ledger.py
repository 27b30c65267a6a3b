"""Keeps what the workers of a training report to the command that waits for them. Loads nothing heavy."""

from collections import Counter
from collections.abc import Sequence

from m2f_batch.errors import RunError

# Starts of all workers without a new checkpoint. As long as there is progress, they are started again.
STARTS = 4  # on the same nodes
IN_ALL = 40  # on any nodes, because nodes that come and go are nobody's mistake
CONNECTIONS = ("gloo", "nccl", "tcpstore")  # words in the error of a worker that has lost another one


def _follows(reason: str) -> bool:
    """Return whether a worker failed only because another one had gone."""
    return any(word in reason.lower() for word in CONNECTIONS)


def _reason_shown(reason: str) -> str:
    """Say to people why all start again."""
    silent = not reason or _follows(reason)
    return f"a worker died ({'killed from outside, or out of memory' if silent else reason})"


class Ledger:
    """An actor that holds the reports of the workers: lines for people, and the error that ends all tries."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._starts: Counter[int] = Counter()
        self._starts_on: Counter[tuple[int, tuple[str, ...]]] = Counter()
        self._end: Exception | None = None
        self._last = self._since = ""  # the last reason of all, and the one since all began
        self._present = 0  # workers that began
        self._is_stopping = False

    def say(self, line: str) -> None:
        """Add a line for people."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """Take the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def end(self, error: Exception) -> None:
        """End all tries, because no worker will do better."""
        self._end = self._end or error

    def fail(self, reason: str) -> None:
        """Note why a worker died. Starting all workers again may help."""
        self._last = reason
        self._since = self._since if self._since and not _follows(self._since) else reason

    def begin(self, step: int, nodes: Sequence[str]) -> None:
        """Note that all workers start from this step, each on one of ``nodes``."""
        if self._starts:
            how = _reason_shown(self._since) if len(nodes) <= self._present else "there are more workers now"
            self.say(f"again   {how}; all go on from step {step}")
        self._since, self._present = "", len(nodes)
        on = step, tuple(sorted(nodes))
        self._starts[step] += 1
        self._starts_on[on] += 1
        if self._starts_on[on] > STARTS or self._starts[step] > IN_ALL:
            reason = self._last or "an unknown reason (killed from outside, or out of memory)"
            self.end(RunError(f"workers die again and again after step {step}, the last time of {reason}"))

    def why_over(self) -> Exception | None:
        """Return the error that ends all tries, None while there is none."""
        return self._end

    def stop(self) -> bool:
        """Ask the workers to stop, and return whether they have."""
        self._is_stopping = True
        return self._end is not None

    def is_stopping(self) -> bool:
        """Return whether the workers are asked to write a checkpoint and stop."""
        return self._is_stopping
