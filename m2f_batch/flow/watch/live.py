"""Says the progress of a run in rows of a table that stays at the bottom of a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from m2f_batch.flow.watch.busy import DEVICE_BUSY, STAGES
from m2f_batch.messages.live import Row, bar_of, name_of


@dataclass(frozen=True)
class State:
    """One moment of a run.

    Attributes:
        done, total, errors: images.
        pace: rate and time left in words.
        shares: busy share by stage, empty before the first unit.
        advice: what to change, empty before the first unit.
    """

    done: int
    total: int
    errors: int
    pace: str
    shares: Mapping[str, float]
    advice: str


def rows_of(state: State) -> list[Row]:
    """Return the rows of one moment."""
    said = Text(f"{state.done:,} of {state.total:,}  {state.pace}")
    rows: list[Row] = [(name_of("images"), bar_of(state.done, state.total), said)]
    if state.errors:
        rows.append((name_of("errors", "bold red"), "", Text(f"{state.errors:,}", "red")))
    for stage in STAGES if state.shares else ():
        share = state.shares.get(stage, 0.0)
        style = "yellow" if share >= DEVICE_BUSY else "cyan"
        rows.append((name_of(stage, ""), bar_of(share, 1.0, style), Text(f"{100 * share:.0f} % busy", "dim")))
    return [*rows, (Text(state.advice, "dim"),)] if state.advice else rows
