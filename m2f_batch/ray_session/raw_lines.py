"""Sends the lines that Ray itself prints on a driver's terminal to a log beside Ray's own.

Whatever ``log_to_driver`` says, a driver prints the reports of Ray's daemons (a worker that died, memory that ran out),
in color and between our lines, which say the same in our words. Ray has no setting for that. The lines of its Python
loggers go to the same file.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ray._private import worker as ray_worker

NAME = "m2f-batch.log"  # in the logs of Ray's session, of all commands that joined it
SINK = "print_worker_logs"  # of Ray's module: all that a driver prints for others goes through it


@contextmanager
def raw_lines_in_log() -> Iterator[None]:
    """Send Ray's own lines to the log of an open session meanwhile, and nowhere if that cannot be written."""
    file = _opened()
    logger, before = logging.getLogger("ray"), getattr(ray_worker, SINK, None)
    handlers, level = logger.handlers, logger.level
    handler = logging.NullHandler() if file is None else logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING)
    if before is not None:  # Ray's own affair: another version may do it otherwise, and prints what it prints
        setattr(ray_worker, SINK, _written(file))
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
        if before is not None:
            setattr(ray_worker, SINK, before)
        if file is not None:
            file.close()


def log_file() -> Path | None:
    """Return the file of Ray's own lines, None without a session on this machine."""
    node = ray_worker.global_worker.node
    return None if node is None else Path(node.get_logs_dir_path()) / NAME


def _opened() -> TextIO | None:
    with suppress(OSError):  # the session of another user
        path = log_file()
        return None if path is None else path.open("a", encoding="utf-8", buffering=1)
    return None


def _written(file: TextIO | None) -> Callable[..., None]:
    """Make a function that takes the place of Ray's printer. Its ``data`` holds the lines and whose they are."""

    def write(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        if file is None:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(ValueError):  # closed: the session is over
            file.writelines(f"{now} ({data.get('pid')}) {line}\n" for line in data.get("lines", ()))

    return write
