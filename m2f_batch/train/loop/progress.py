"""Shows the progress of a training and its loss: a table on a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from m2f_batch.messages.colors import is_live
from m2f_batch.messages.spoken import duration
from m2f_batch.messages.terminal import is_quiet
from m2f_batch.result import unheard
from m2f_batch.train.data.stream import Span

if TYPE_CHECKING:
    from m2f_batch.messages.live import LiveTable

LINE_SECONDS = 30.0
SMOOTHED = 20  # steps whose mean is shown, because one batch's loss says little
USUAL = (2, 6)  # the loss of one output of the decoder, for most of a training


class Progress:
    """Says how many steps of ``span`` are done, with their loss, rate and the time left. ``unheard`` has no table."""

    def __init__(self, span: Span, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._span, self._say, self._clock = span, say, clock
        self._began = self._said = clock()
        self._losses: deque[Mapping[str, float]] = deque(maxlen=SMOOTHED)
        self._at, self._mean = span.first, ""
        self._table: LiveTable | None = None
        if say is not unheard and is_live(sys.stderr) and not is_quiet():
            self._table = self._new_table()
            self._table.start()

    def step(self, at: int, loss: float, parts: Mapping[str, float]) -> None:
        """Count step ``at`` (from 1). ``parts`` add up to ``loss``, which the mean leaves out unless it is finite."""
        if math.isfinite(loss):
            self._losses.append({"loss": loss, **parts})
        self._mean = self._loss()  # here, because another thread draws the table
        self._at, now = at, self._clock()
        if self._table is not None or now - self._said < LINE_SECONDS or at == self._span.steps:
            return
        self._said = now
        mean = f", {self._mean}" if self._mean else ""
        self._say(f"train   step {at} of {self._span.steps}{mean}, {self._pace(at, now)}")

    def close(self) -> None:
        """Take the table away after the last step."""
        if self._table is not None:
            self._table.stop()

    def _pace(self, at: int, now: float) -> str:
        rate = (at - self._span.first) / (now - self._began)
        return f"{rate * self._span.batch_size:.1f} images/s, {duration((self._span.steps - at) / rate)} left"

    def _new_table(self) -> "LiveTable":
        from m2f_batch.messages.live import LiveTable, Row, bar_of, name_of

        def rows() -> list[Row]:
            at, now, steps = self._at, self._clock(), self._span.steps
            pace = f", {self._pace(at, now)}" if at > self._span.first and now > self._began else ""
            shown: list[Row] = [(name_of("train"), bar_of(at, steps), f"step {at} of {steps}{pace}")]
            return [*shown, (name_of("loss"), "", self._mean.removeprefix("loss "))] if self._mean else shown

        return LiveTable(rows)

    def _loss(self) -> str:
        """Return the mean over the last steps, empty when none was finite."""
        if not self._losses:
            return ""
        mean = {name: sum(each[name] for each in self._losses) / len(self._losses) for name in self._losses[0]}
        parts = ", ".join(f"{name} {value:.3g}" for name, value in mean.items() if name != "loss")
        return f"loss {mean['loss']:.3g} ({parts})"


def first_loss(loss: float, outputs: int) -> str:
    """Explain the loss of the first step, of a decoder with so many ``outputs``, to a user.

    >>> print(first_loss(147.25, 10))
    loss    147 in the first step: it is a sum over the decoder's 10 outputs, so 20 to 60 is normal for long, and more
    at the start; that it falls and the validation rises is what counts
    """
    least, most = (outputs * each for each in USUAL)
    return (
        f"loss    {loss:.3g} in the first step: it is a sum over the decoder's {outputs} outputs, so {least} to {most} "
        "is normal for long, and more at the start; that it falls and the validation rises is what counts"
    )
