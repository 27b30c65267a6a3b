"""Lists the annotation formats, and the keys of ``data`` that each of them takes.

A format is one file of ``datasets/formats``, which defines FORMAT. ``config`` must not import ``datasets``, so it
finds the files by listing the folder. Importing one of them loads no reader.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from m2f_batch.config.segment import Task
from m2f_batch.members import members_of

FOLDER = "m2f_batch.datasets.formats"
# keys of ``data`` that some formats take and others refuse
OWN_KEYS = ("train_masks", "ignore_index", "names", "mask_suffix", "do_reduce_labels", "palette", "crowd_as_object")


@dataclass(frozen=True, kw_only=True)
class FormatKeys:
    """The facts of a format that configs and help texts need.

    Attributes:
        name: the value of ``data.format``, ``--format``, ``--from`` and ``--to``.
        help: the annotations in a few words, for help texts.
        takes: those of OWN_KEYS that apply to the format.
        task: the task that its annotations are for, None where objects serve several.
        read: the reader, None for a format that is only written.
    """

    name: str
    help: str
    takes: frozenset[str] = frozenset()
    task: Task | None = None
    read: Callable[..., object] | None = None


def all_formats() -> dict[str, FormatKeys]:
    """Return the formats by name, in the order of their names."""
    found = members_of(FOLDER, "FORMAT", FormatKeys).values()
    return {known.name: known for known in sorted(found, key=lambda known: known.name)}


def read_formats() -> dict[str, FormatKeys]:
    """Return the formats that annotations are read in."""
    return {name: known for name, known in all_formats().items() if known.read is not None}


def takers(key: str, joined: str = ", ") -> str:
    """The names of the formats that take one of OWN_KEYS, for messages and help texts."""
    return joined.join(name for name, known in read_formats().items() if key in known.takes)


def format_read(name: Any) -> str:
    """Return ``name`` where it is a format that is read. Raises PydanticCustomError for any other value."""
    known = [*read_formats()]
    if isinstance(name, str) and name in known:
        return name
    *others, last = [repr(each) for each in known]
    raise PydanticCustomError("format", f"input should be {', '.join(others)} or {last}")
