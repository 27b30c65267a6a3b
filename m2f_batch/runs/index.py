"""RUN/_state/index.json: what each committed file holds, so that it need not be read to be counted.

A cache: an entry counts as long as the file has the entry's version; what is missing or wrong only costs a read.
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
    """What a file of a ``version`` holds: its counts as ``Tally`` has them; whether it verified."""

    version: str
    ok: int
    error: int
    segments: int
    reasons: dict[str, int]
    verified: bool = False
    strangers: int = 0

    @property
    def rows(self) -> int:
        """In all."""
        return self.ok + self.error

    def tally(self) -> Tally:
        """The counts."""
        return Tally(self.ok, self.error, self.segments, Counter(self.reasons), self.strangers)


def entry_of(version: str, tally: Tally) -> IndexEntry:
    """The entry of a file that has been counted, and not verified."""
    return IndexEntry(version, tally.ok, tally.error, tally.segments, dict(tally.reasons), strangers=tally.strangers)


def read_index(run: RunDirectory) -> dict[str, IndexEntry]:
    """The entries by file name, without extension; none where there is no index, or one that nobody can read.

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
    """What committed files hold of the images that the manifest gives them: by the index, else read.

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
    """How many images are done, but wait for others of their file to appear with; nothing is read."""
    images = 0
    for unit in staged(run):
        file, part, _ = file_and_part(unit)
        if file not in there:
            images += max(0, min(assigned.images_per_unit, assigned.images(file) - part * assigned.images_per_unit))
    return images
