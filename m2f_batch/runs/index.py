"""Keeps RUN/_state/index.json: the counts of each committed file, so that it need not be read to be counted.

It is a cache. An entry counts as long as the file has the entry's version, and a missing entry only costs a read.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from m2f_batch.runs.assignment import Assigned
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.held_folder import json_bytes
from m2f_batch.runs.plan import file_and_part
from m2f_batch.runs.tally import COLUMNS, NO_IMAGE, Tally
from m2f_batch.runs.writing.commit import staged
from m2f_batch.storage.store import Entry, NotFound, threaded

NAME = "_state/index.json"
READERS = 4  # files in memory at a time
COUNTED = ["image_id", *COLUMNS]


@dataclass(frozen=True)
class IndexEntry:
    """The counts of a file of a ``version``, and whether it verified."""

    version: str
    ok: int
    error: int
    segments: int
    reasons: dict[str, int]
    verified: bool = False
    strangers: int = 0

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.ok + self.error

    def tally(self) -> Tally:
        """Return the counts."""
        return Tally(self.ok, self.error, self.segments, Counter(self.reasons), self.strangers)


def entry_of(version: str, tally: Tally) -> IndexEntry:
    """Return the entry of a file that was counted and not verified."""
    return IndexEntry(version, tally.ok, tally.error, tally.segments, dict(tally.reasons), strangers=tally.strangers)


def read_index(run: RunDirectory) -> dict[str, IndexEntry]:
    """Read the entries by file name, without extension. An index that cannot be read has none.

    Files of which an older release has not counted the strangers are left out, so that they are counted anew.
    """
    try:
        files = json.loads(run.store.read(run.path(NAME)))["files"]
        return {
            name: IndexEntry(**entry)
            for name, entry in files.items()
            if "strangers" in entry or NO_IMAGE.isdisjoint(entry["reasons"])
        }
    except NotFound:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_index(run: RunDirectory, entries: Mapping[str, IndexEntry]) -> None:
    """Replace the index. Raises Fenced when another run has taken over."""
    run.write(NAME, json_bytes({"files": {name: asdict(entries[name]) for name in sorted(entries)}}))


def tally_by(
    run: RunDirectory, assigned: Assigned | None, there: Mapping[str, Entry], index: Mapping[str, IndexEntry]
) -> Tally:
    """Count the rows that the manifest gives the committed files, by the index where it knows, else by reading.

    Raises DamagedFile for a file that cannot be read.
    """
    tally, unknown = Tally(), []
    for name, entry in there.items():
        known = index.get(name)
        if assigned is not None and not assigned.images(name):
            continue
        # another number of rows than the manifest gives it: some are to be dropped
        is_whole = known is not None and (assigned is None or known.rows == assigned.images(name))
        if known is not None and is_whole and known.version == entry.version:
            tally = tally + known.tally()
        else:
            unknown.append(name)

    def read(name: str) -> pa.Table:
        rows = run.read_annotations(there[name].uri, COUNTED)
        if assigned is None:
            return rows
        return rows.filter(pa.array(np.isin(rows["image_id"].to_numpy(), assigned.ids(name))))

    for rows in threaded(read, unknown, READERS):
        tally.add(rows)
    return tally


def staged_images(run: RunDirectory, assigned: Assigned, there: Mapping[str, Entry]) -> int:
    """Count the images that are done and wait for the others of their file. Reads no file."""
    images = 0
    for unit in staged(run):
        file, part, _ = file_and_part(unit)
        if file not in there:
            images += max(0, min(assigned.images_per_unit, assigned.images(file) - part * assigned.images_per_unit))
    return images
