"""How far training is: a bar with the time that is left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from m2f_batch.train.stream import Span, Step

LINE_SECONDS = 30.0


def shown(steps: Iterator[Step], span: Span, say: Callable[[str], None]) -> Iterator[Step]:
    """The same steps; while they pass, it is said how many, how fast, and when the last will be done."""
    if sys.stderr.isatty():
        with tqdm(steps, total=span.steps, initial=span.first, unit="step", desc="train", dynamic_ncols=True) as bar:
            yield from bar
        return
    began = said = time.monotonic()
    for done, step in enumerate(steps):
        now = time.monotonic()
        if done and now - said >= LINE_SECONDS:
            said, rate = now, done / (now - began)
            at, left = span.first + done, span.steps - span.first - done
            say(
                f"train   step {at} of {span.steps}, {rate * span.batch_size:.1f} images/s, {_spoken(left / rate)} left"
            )
        yield step


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
