"""Measures the memory of the driver, and refuses a listing that is too large for it, because it keeps part of it.

Such a run would die after hours, when the next plan is made or the run is verified.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from m2f_batch.errors import UsageError

# Bytes at the worst moment of a run: of the command, its gate and what Ray's object store holds of the plan, and
# without Ray's GCS: twice the text in the store, once or twice in the command. Measured: benchmarks/results/planning.md
BASE = 1 << 30  # whatever is listed: Python, Ray's processes
PER_IMAGE = 110
PER_TEXT_BYTE = 4.3  # of uris and versions, with their offsets


def needed(images: int, text: int) -> int:
    """Returns the bytes that a run of so many images takes beside its driver. ``text``: bytes of uris and versions."""
    return BASE + images * PER_IMAGE + int(text * PER_TEXT_BYTE)


def check_room(images: int, text: int, memory: int) -> None:
    """Raises UsageError where ``memory`` is too small for so many images with ``text`` bytes of uris and versions.

    >>> check_room(1_000_000, 100_000_000, 4 << 30)
    """
    need = needed(images, text)
    if not images or need <= memory or memory <= BASE:  # where Ray itself has no room, the listing is not to blame
        return
    each = (need - BASE) / images
    fit = max(0, int((memory - BASE) / each))
    size = 10 ** max(0, len(str(fit)) - 2)
    raise UsageError(
        f"lists {images:,} images and more. A run over these takes {need / 1e9:.3g} GB of "
        f"memory beside its driver ({each:.0f} bytes per image, measured), which has "
        f"{memory / 1e9:.3g} GB: at most some {fit // size * size:,} such images. Split INPUT "
        "by prefix, each with an OUTPUT of its own, or give the driver (on a cluster, the head) more "
        "memory",
        field="input.uri",
    )


class Room:
    """Adds up what is listed, part by part. ``memory`` is in bytes, by default what this process may use."""

    def __init__(self, memory: int | None = None) -> None:
        self._memory = driver_memory() if memory is None else memory
        self._images = self._text = 0

    def take(self, names: pa.Array, *others: pa.Array | pa.ChunkedArray) -> None:
        """Takes the next images, and other columns of theirs. Raises UsageError once there are too many."""
        self._images += len(names)
        self._text += sum(column.nbytes for column in (names, *others))
        check_room(self._images, self._text, self._memory)


def driver_memory(root: Path = Path("/")) -> int:
    """Returns the bytes that this process may use: the least limit of its cgroups, or the machine's memory."""
    return min(_limits(root))


def _limits(root: Path) -> Iterator[int]:
    total = re.search(r"^MemTotal: *(\d+)", _read(root / "proc/meminfo"), re.MULTILINE)
    yield int(total[1]) * 1024 if total else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, kinds, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in kinds.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # in a container the path may be the host's, which is not seen from here: its own limit is then at the top
        place = top / path.strip("/")
        for level in (place, *place.parents):
            limit = _read(level / name).strip() if level.is_relative_to(top) else ""
            if limit.isdigit():
                yield int(limit)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
