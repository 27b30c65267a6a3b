"""What the workers of a training tell the command that waits for them; an actor, which loads nothing heavy."""

from collections import Counter
from collections.abc import Sequence

from m2f_batch.errors import RunError

# Starts of all workers without a new checkpoint; as long as there is progress, they are started again.
STARTS = 4  # on the same nodes
IN_ALL = 40  # on any: nodes that come and go, or are taken away, are nobody's mistake
CONNECTIONS = ("gloo", "nccl", "tcpstore")  # in whose words a worker fails since another one has gone


def _follows(reason: str) -> bool:
    """Whether a worker failed only since another one had gone."""
    return any(word in reason.lower() for word in CONNECTIONS)


def _told(reason: str) -> str:
    """Why all start again, for people."""
    silent = not reason or _follows(reason)
    return f"a worker died ({'killed from outside, or out of memory' if silent else reason})"


class Ledger:
    """What workers tell the command: lines for people, and why nothing is to be tried again."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._starts: Counter[int] = Counter()
        self._starts_on: Counter[tuple[int, tuple[str, ...]]] = Counter()
        self._end: Exception | None = None
        self._last = self._since = ""  # the last reason of all, and the one since all began
        self._present = 0  # workers that began
        self._is_stopping = False

    def say(self, line: str) -> None:
        """A line for people."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def end(self, error: Exception) -> None:
        """No worker will do better."""
        self._end = self._end or error

    def fail(self, reason: str) -> None:
        """A worker died of this, or of another worker's death; starting all of them again may help."""
        self._last = reason
        self._since = self._since if self._since and not _follows(self._since) else reason

    def begin(self, step: int, nodes: Sequence[str]) -> None:
        """All workers start from this step; ``nodes``: where each of them is."""
        if self._starts:
            how = _told(self._since) if len(nodes) <= self._present else "there are more workers now"
            self.say(f"again   {how}; all go on from step {step}")
        self._since, self._present = "", len(nodes)
        on = step, tuple(sorted(nodes))
        self._starts[step] += 1
        self._starts_on[on] += 1
        if self._starts_on[on] > STARTS or self._starts[step] > IN_ALL:
            reason = self._last or "an unknown reason (killed from outside, or out of memory)"
            self.end(RunError(f"workers die again and again after step {step}, the last time of {reason}"))

    def why_over(self) -> Exception | None:
        """Why nothing is to be tried again; None: go on."""
        return self._end

    def stop(self) -> bool:
        """The command is asked to stop; whether that is done."""
        self._is_stopping = True
        return self._end is not None

    def is_stopping(self) -> bool:
        """Whether a checkpoint is to be written, and no step done after it."""
        return self._is_stopping
