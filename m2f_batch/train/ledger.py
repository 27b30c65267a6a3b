"""What the workers of a training tell the command that waits for them; an actor, which loads nothing heavy."""

from collections import Counter

from m2f_batch.errors import RunError

STARTS = 4  # of all workers without a new checkpoint; as long as there is progress, they are started again


class Ledger:
    """What workers tell the command: lines for people, and why nothing is to be tried again."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._starts: Counter[int] = Counter()
        self._end: Exception | None = None
        self._last = ""
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

    def begin(self, step: int) -> None:
        """All workers start from this step."""
        self._starts[step] += 1
        if self._starts[step] > STARTS:
            self.end(RunError(f"workers die again and again after step {step}, the last time of {self._last}"))

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
