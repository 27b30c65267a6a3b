"""Decides which image goes into which file, and what is left to do. Pure: Arrow tables in, Arrow tables out.

What a command does with what OUTPUT holds is decided in ``flow/attempt/output_state``, and for trainings in
``train/output/output_state``.

The manifest is the plan. Each listed image names the file that holds, or will hold, its row, so that done is what
storage lists, and no file has to be read to know it. A file is a slice of what was to do when the plan was made, by
uri, and is labeled in units. Its name is the hash of its image ids, the run's fingerprint and the plan, so that a
retry, or a writer that was thought dead, can only write the same file again.

A plan is replaced when INPUT lists something else than before, or rows are asked for again. Files that are there keep
their rows. A file that is not there stays planned if all its images are still wanted. All else is cut anew.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2f_batch.inputs.columns import picked, shared
from m2f_batch.records import ImageRef

FILES = 256  # a run's files are about so many, as long as each has
SMALL_FILES = 16  # so many may stay
LEAST_IMAGES, MOST_IMAGES = 32, 4096  # enough to be worth a request, and few enough to be held in memory
FILE = pa.dictionary(pa.int32(), pa.string())  # 4 bytes for each image, 36 as text
UNIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
UNIT_SCHEMA = pa.schema(
    [("unit", pa.string()), ("images", pa.list_(pa.struct([("uri", pa.string()), ("version", pa.string())])))]
)
_KEY = b"m2f_batch.plan"
_Int = NDArray[np.int64]
_SEARCHED = 1 << 20  # ids at a time
_UNITS = 256  # that are put together at a time, where one by one is asked for


@dataclass(frozen=True)
class Unit:
    """A unit of work: images that travel and are committed together. ``name`` tells its file and its part of it."""

    name: str
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True)
class Plan:
    """The manifest with its column ``file``: sorted by uri, each image once. ``plan_id`` is new with every plan.

    In memory ``file`` is of the type FILE, in storage text.
    """

    plan_id: str
    images_per_unit: int
    table: pa.Table

    def manifest(self) -> pa.Table:
        """As it is stored, but for the type of ``file``."""
        facts = json.dumps({"plan": self.plan_id, "images_per_unit": self.images_per_unit})
        return self.table.replace_schema_metadata({_KEY: facts.encode()})

    def files(self) -> pa.DictionaryArray:
        """Return the file of each image. The dictionary has the names in use, as they first appear."""
        return numbered(self.table["file"])

    def names(self) -> list[str]:
        """Return the files, as they first appear."""
        return list(self.files().dictionary.to_pylist())


def plan_of(manifest: pa.Table) -> Plan | None:
    """Return the plan that a stored manifest holds, None if it holds none."""
    facts = (manifest.schema.metadata or {}).get(_KEY)
    if facts is None or "file" not in manifest.column_names:
        return None
    tree, place = json.loads(facts), manifest.column_names.index("file")
    table = manifest.set_column(place, "file", numbered(manifest["file"]))
    return Plan(tree["plan"], tree["images_per_unit"], table.replace_schema_metadata(None))


def numbered(files: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column of names, as texts or of the type FILE, with a dictionary of those that are there, in their order.

    >>> numbered(pa.chunked_array([["b", "a", "b"]])).dictionary.to_pylist()
    ['b', 'a']
    """
    encoded = files.cast(FILE) if pa.types.is_dictionary(files.type) else pc.dictionary_encode(files)
    whole = pa.concat_arrays([pa.array([], FILE), *encoded.chunks])
    codes, names = np.asarray(whole.indices), whole.dictionary
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))[: len(codes)]  # of stretches of one name
    firsts = np.full(len(names), len(codes))
    firsts[codes[starts[::-1]]] = starts[::-1]  # the last to be set is the first that is there
    order = np.argsort(firsts, kind="stable")[: (firsts < len(codes)).sum()]
    if len(order) == len(names) and (order[1:] > order[:-1]).all():
        return whole
    number = np.zeros(len(names), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(number[codes]), names.take(pa.array(order)))


def default_images_per_file(listed: int) -> int:
    """Return files of useful size, and results soon.

    >>> [default_images_per_file(n) for n in (5, 100_000, 1_000_000, 10**9)]
    [32, 416, 3936, 4096]
    """
    least = -(-listed // FILES)
    return min(MOST_IMAGES, max(LEAST_IMAGES, -(-least // LEAST_IMAGES) * LEAST_IMAGES))


def new_plan(listing: pa.Table, fingerprint: str, images_per_file: int, images_per_unit: int) -> Plan:
    """Return the plan of a run over a listing of which nothing is done."""
    plan_id = uuid.uuid4().hex
    names, codes = _cut(_ids(listing), images_per_file, fingerprint, plan_id)
    return Plan(plan_id, images_per_unit, _with_files(listing, names, codes))


@dataclass(frozen=True)
class Change:
    """The changes of a new plan: counts of images, files with rows that it does not want, merged files."""

    plan: Plan
    new: int = 0  # uris that were not listed before
    changed: int = 0  # uris of another version
    vanished: int = 0  # uris that are not listed any more
    retried: int = 0
    dirty: tuple[str, ...] = ()
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # new files: the small ones they are of

    @property
    def rewritten(self) -> int:
        """The number of files to read and write before anything is labeled."""
        return len(self.dirty) + len(self.sources)

    @property
    def sources(self) -> tuple[str, ...]:
        """The small files that are merged."""
        return tuple(source for sources in self.merged.values() for source in sources)

    def said(self) -> str:
        """Return the changes in words."""
        counts = {"new": self.new, "changed": self.changed, "vanished": self.vanished, "tried again": self.retried}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "no change"


def next_plan(
    old: Plan, listing: pa.Table, there: Collection[str], retry: _Int, fingerprint: str, images_per_file: int, unit: int
) -> Change:
    """Return the plan over a new listing when the files ``there`` are committed, and ``retry`` are ids to do again.

    Files that lose rows come out as ``dirty``: what they hold beyond the plan has to be dropped before anything is
    labeled. The old plan itself where it still holds.
    """
    ids, old_ids = _ids(listing), _ids(old.table)
    files = old.files()
    names, codes = files.dictionary.to_pylist(), np.asarray(files.indices)
    is_there = np.array([name in there for name in names], bool)
    place = _places(old_ids, ids)  # of each new image in the old manifest, or -1
    is_listed = np.zeros(len(old_ids), bool)
    is_listed[place[place >= 0]] = True
    is_kept = is_listed & ~(np.isin(old_ids, retry) & is_there[codes])
    lost = np.bincount(codes[~is_kept], minlength=len(names))
    if is_kept.all() and (place >= 0).all():
        return Change(old if _is_same_table(old.table, listing) else _with_columns_of(old, listing))
    keeps_file = np.where(is_there[codes], is_kept, (lost == 0)[codes])
    file_of = np.append(np.where(keeps_file, codes, np.int32(-1)), np.int32(-1))[place]  # -1, no place, is the last
    is_old = place >= 0
    del place, keeps_file
    todo = np.flatnonzero(file_of < 0)
    plan_id = uuid.uuid4().hex
    more, cut = _cut(ids[todo], images_per_file, fingerprint, plan_id)
    file_of[todo] = cut + len(names)
    merged = {}
    for group in _small(file_of, is_there, images_per_file):
        rows = np.flatnonzero(np.isin(file_of, group))
        (name,), _ = _cut(ids[rows], len(rows), fingerprint, plan_id)
        file_of[rows] = len(names) + len(more)
        more.append(name)
        merged[name] = tuple(names[code] for code in group)
    # units that were begun keep their size, or what is staged of them would be no part of theirs
    size = old.images_per_unit if (~is_there & (lost == 0)).any() else unit
    plan = Plan(plan_id, size, _with_files(listing, names + more, file_of))
    # the others have their uris in both, since they have their ids in both
    unlisted = old.table["uri"].filter(pa.array(~is_listed))
    unknown = listing["uri"].filter(pa.array(~is_old))
    changed = shared(unlisted, unknown)
    return Change(
        plan,
        new=len(unknown) - changed,
        changed=changed,
        vanished=len(unlisted) - changed,
        retried=int((is_listed & ~is_kept).sum()),
        dirty=tuple(name for name, count, here in zip(names, lost, is_there, strict=True) if count and here),
        merged=merged,
    )


def _small(file_of: _Int, is_there: NDArray[np.bool_], images_per_file: int) -> Iterator[list[int]]:
    """Yield files to be merged into one, group by group: those less than half full, once there are many of them.

    A run each night leaves such a file, and a growing listing asks for larger ones.
    """
    rows = np.bincount(file_of[file_of >= 0], minlength=len(is_there))[: len(is_there)]
    small = np.flatnonzero(is_there & (rows > 0) & (2 * rows < images_per_file))
    group: list[int] = []
    for code in small if len(small) > SMALL_FILES else []:
        if group and rows[group].sum() + rows[code] > images_per_file:
            yield group
            group = []
        group.append(int(code))
    if len(group) > 1:
        yield group


class Units:
    """The units of a plan that are left to do, in order. Their images are put together when they are asked for.

    ``names`` and, one longer, ``bounds``: a unit's images are ``rows[bounds[n] : bounds[n + 1]]`` of the columns
    ``uri`` and ``version`` of ``images``.
    """

    def __init__(self, names: Sequence[str], bounds: _Int, images: pa.Table, rows: _Int) -> None:
        self._names, self._bounds, self._rows = pa.array(names, pa.string()), bounds, rows
        self._images = images.select(["uri", "version"])

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "Units":
        """Return the units of an iterable."""
        given = [*units]
        refs = [ref for unit in given for ref in unit.refs]
        texts = {"uri": [ref.uri for ref in refs], "version": [ref.version for ref in refs]}
        images = pa.table({name: pa.array(column, pa.string()) for name, column in texts.items()})
        bounds = np.cumsum([0, *(len(unit.refs) for unit in given)])
        return cls([unit.name for unit in given], bounds, images, np.arange(len(refs)))

    def __len__(self) -> int:
        return len(self._names)

    def part(self, first: int, count: int) -> pa.Table:
        """Units from the number ``first`` on, at most ``count``, as a table of UNIT_SCHEMA."""
        bounds = self._bounds[first : first + count + 1]
        rows = self._rows[bounds[0] : bounds[-1]]
        nested = UNIT_SCHEMA.field("images").type
        columns = [picked(self._images[field.name], rows).cast(field.type) for field in nested.value_type]
        images = pa.StructArray.from_arrays(columns, fields=list(nested.value_type))
        lists = pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), images).cast(nested)
        return pa.Table.from_arrays([self._names.slice(first, count), lists], schema=UNIT_SCHEMA)

    def __iter__(self) -> Iterator[Unit]:
        for first in range(0, len(self), _UNITS):
            for unit in self.part(first, _UNITS).to_pylist():
                yield Unit(unit["unit"], tuple(ImageRef(image["uri"], image["version"]) for image in unit["images"]))


def pending(plan: Plan, there: Collection[str], staged: Collection[str] = ()) -> Units:
    """Return what is left, in the order of the plan: units of files that are not there and that are not staged."""
    files = plan.files()
    names, codes = files.dictionary.to_pylist(), np.asarray(files.indices)
    is_left = np.array([name not in there for name in names], bool)
    rows = np.flatnonzero(is_left[codes]) if names else np.zeros(0, np.int64)
    left = codes[rows]
    if (left[1:] < left[:-1]).any():
        rows = rows[np.argsort(left, kind="stable")]  # files in the order of their first uri
    counts = np.bincount(left, minlength=len(names))
    units, bounds, first = [], [0], 0
    chosen = np.ones(len(rows), bool)
    done = set(staged)
    for code in np.flatnonzero(counts):
        parts = -(-int(counts[code]) // plan.images_per_unit)
        for part in range(parts):
            size = min(plan.images_per_unit, int(counts[code]) - part * plan.images_per_unit)
            name = unit_name(names[code], part, parts)
            if name in done:
                chosen[first : first + size] = False
            else:
                units.append(name)
                bounds.append(bounds[-1] + size)
            first += size
    return Units(units, np.array(bounds), plan.table, rows if chosen.all() else rows[chosen])


def unit_name(file: str, part: int, parts: int) -> str:
    """Return the name of one part of a file, which is the file's own if it has one part."""
    return file if parts == 1 else f"{file}-{part:05d}-of-{parts:05d}"


def file_and_part(unit: str) -> tuple[str, int, int]:
    """Return the file of a unit, which part of it the unit is, and of how many."""
    match = UNIT.fullmatch(unit)
    return (match[1], int(match[2]), int(match[3])) if match else (unit, 0, 1)


def _cut(ids: _Int, images_per_file: int, fingerprint: str, plan_id: str) -> tuple[list[str], NDArray[np.int32]]:
    """Return names of the files that images go into, in order, and the number of the name for each."""
    names = []
    for first in range(0, len(ids), images_per_file):
        digest = hashlib.sha256(f"{fingerprint}\0{plan_id}\0".encode())
        digest.update(ids[first : first + images_per_file].astype(">i8").tobytes())
        names.append(digest.hexdigest()[:32])
    return names, np.repeat(np.arange(len(names), dtype=np.int32), min(images_per_file, len(ids)))[: len(ids)]


def _with_files(listing: pa.Table, names: list[str], codes: NDArray[np.int32]) -> pa.Table:
    files = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string()))
    return _unfiled(listing).append_column("file", numbered(pa.chunked_array([files])))


def _with_columns_of(old: Plan, listing: pa.Table) -> Plan:
    """Return the old plan with a listing's other columns: a manifest may say more of the same images now."""
    return Plan(old.plan_id, old.images_per_unit, _unfiled(listing).append_column("file", old.table["file"]))


def _is_same_table(manifest: pa.Table, listing: pa.Table) -> bool:
    bare = _unfiled(manifest).replace_schema_metadata(None)
    return bool(bare.equals(_unfiled(listing).replace_schema_metadata(None)))


def _unfiled(listing: pa.Table) -> pa.Table:
    """Return a manifest as it was listed: a listing has no column of that name."""
    return listing.drop_columns(["file"]) if "file" in listing.column_names else listing


def _places(old_ids: _Int, ids: _Int) -> NDArray[np.int32]:
    """Return the index of each id among the old ones, -1 if it is not there."""
    place = np.full(len(ids), -1, np.int32)
    if not len(old_ids):
        return place
    # looked for in their order: each search begins where the memory of the one before is still at hand
    order, mine = (np.argsort(some).astype(np.int32) for some in (old_ids, ids))
    there = old_ids[order]
    for first in range(0, len(ids), _SEARCHED):
        rows = mine[first : first + _SEARCHED]
        found = np.minimum(np.searchsorted(there, ids[rows]), len(there) - 1)
        place[rows] = np.where(there[found] == ids[rows], order[found], np.int32(-1))
    return place


def _ids(table: pa.Table) -> _Int:
    return np.asarray(table["image_id"].to_numpy(), dtype=np.int64)
