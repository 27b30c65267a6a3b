"""Keeps a table at the bottom of a terminal while something goes on, by rich."""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BAR_WIDTH, REFRESHES_PER_SECOND = 36, 2
Row = Sequence[RenderableType]  # a name, a bar or nothing, and what there is to say


class LiveTable:
    """The table, from ``start`` to ``stop``, which takes it away. What is printed meanwhile stands above it."""

    def __init__(self, rows: Callable[[], Sequence[Row]], console: Console | None = None) -> None:
        self._live = Live(
            get_renderable=lambda: table_of(rows()),
            console=console or Console(file=sys.stderr),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file or a pipe must get there
        )

    def start(self) -> None:
        """Draw the table, and draw it anew from a thread of its own."""
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Take the table away."""
        self._live.stop()


def table_of(rows: Sequence[Row]) -> Table:
    """Return the table of one moment. A row of one cell goes over all columns."""
    cells, wide = [row for row in rows if len(row) > 1], [row[0] for row in rows if len(row) == 1]
    table = Table.grid(padding=(0, 2))
    for row in cells:
        table.add_row(*row)
    if not wide:
        return table
    outer = Table.grid()
    for each in (table, *wide):
        outer.add_row(each)
    return outer


def bar_of(done: float, total: float, style: str = "green") -> ProgressBar:
    """Return the bar of a row."""
    done = min(done, total)
    return ProgressBar(total=total, completed=done, width=BAR_WIDTH, complete_style=style, finished_style=style)


def name_of(text: str, style: str = "bold") -> Text:
    """Return the first cell of a row."""
    return Text(text, style)
