"""Keeps a table at the bottom of a terminal while something goes on, by rich."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

BAR_WIDTH, REFRESHES_PER_SECOND = 36, 2
Row = Sequence[RenderableType]  # a name, a bar or nothing, and what there is to say


class LiveTable:
    """The table, from ``start`` to ``stop``, which takes it away. What is printed meanwhile stands above it.

    Only what goes to a terminal is taken there. What goes to a file or a pipe gets there as ever.
    """

    def __init__(self, rows: Callable[[], Sequence[Row]], console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._live = Live(
            get_renderable=lambda: table_of(rows()),
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,  # rich breaks lines at the width, so that no command or path can be copied
            redirect_stderr=False,
        )
        self._redirected = ExitStack()

    def start(self) -> None:
        """Draw the table, and draw it anew from a thread of its own."""
        self._live.start(refresh=True)
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream.isatty():
                above = Above(self._console, stream)
                self._redirected.callback(above.end)
                self._redirected.enter_context(redirect(above))

    def stop(self) -> None:
        """Take the table away, and give the streams back."""
        with self._redirected:
            self._live.stop()


class Above(FileProxy):
    """A stream whose lines are printed above a table as they are, once they are whole."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        super().__init__(console, stream)
        self._console, self._stream, self._begun, self._lock = console, stream, "", threading.RLock()

    def write(self, text: str) -> int:
        """Print the lines that end in a text, and keep the rest."""
        with self._lock:
            whole, line_break, rest = text.rpartition("\n")
            if line_break:
                whole, self._begun = self._begun + whole, ""
                self._console.print(_Verbatim(f"{whole}\n"), soft_wrap=True, end="")
            self._begun += rest
        return len(text)

    def flush(self) -> None:
        """Wait for the rest of the line."""

    def end(self) -> None:
        """Print a line that was not ended."""
        self._stream.write(self._begun)


class _Verbatim:
    """A text with colors in it, whose lines a terminal breaks, so that they are copied whole."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield Segment(self._text)


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
