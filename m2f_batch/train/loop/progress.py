"""Shows the progress of a training and its loss: a bar on a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping

from tqdm import tqdm

from m2f_batch.messages.spoken import duration
from m2f_batch.result import unheard
from m2f_batch.train.data.stream import Span

LINE_SECONDS = 30.0
SMOOTHED = 20  # steps whose mean is shown, because one batch's loss says little
USUAL = (2, 6)  # the loss of one output of the decoder, for most of a training


class Progress:
    """Says how many steps of ``span`` are done, with their loss, rate and the time left. ``unheard`` has no bar."""

    def __init__(self, span: Span, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._span, self._say, self._clock = span, say, clock
        self._began = self._said = clock()
        self._losses: deque[Mapping[str, float]] = deque(maxlen=SMOOTHED)
        self._bar = None
        if say is not unheard and sys.stderr.isatty():
            self._bar = tqdm(total=span.steps, initial=span.first, unit="step", desc="train", dynamic_ncols=True)

    def step(self, at: int, loss: float, parts: Mapping[str, float]) -> None:
        """Count step ``at`` (from 1). ``parts`` add up to ``loss``, which the mean leaves out unless it is finite."""
        if math.isfinite(loss):
            self._losses.append({"loss": loss, **parts})
        if self._bar is not None:
            self._bar.set_postfix_str(self._loss(), refresh=False)
            self._bar.update(at - self._bar.n)
            return
        now, done = self._clock(), at - self._span.first
        if now - self._said < LINE_SECONDS or at == self._span.steps:
            return
        self._said, rate = now, done / (now - self._began)
        mean = f", {text}" if (text := self._loss()) else ""
        self._say(
            f"train   step {at} of {self._span.steps}{mean}, {rate * self._span.batch_size:.1f} images/s, "
            f"{duration((self._span.steps - at) / rate)} left"
        )

    def close(self) -> None:
        """End the bar after the last step."""
        if self._bar is not None:
            self._bar.close()

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
