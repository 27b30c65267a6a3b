"""Reads a run: what run.json says, its rows, and the images behind them. Writes nothing, loads neither torch nor Ray.

The order of rows is made in ``rows``.

>>> run = open_run("demo-run")                                               # doctest: +SKIP
>>> run.info.task, run.row("demo-run/images/scene-00.png")["status"]         # doctest: +SKIP
('instance', 'ok')
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2f_batch.errors import ArgumentError, Plain, UsageError
from m2f_batch.inputs.fetch import fetch
from m2f_batch.messages.near_miss import near_misses
from m2f_batch.records import SCHEMA, ImageRef, Row, Segment, segment_of
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.info import RunInfo, read_info
from m2f_batch.runs.rows import Order, order_of, tables_by_uri
from m2f_batch.runs.writing.sidecars import sidecar_path
from m2f_batch.storage import uris
from m2f_batch.storage.s3.settings import recorded, using
from m2f_batch.storage.store import NotFound

NEIGHBORS = 1000  # listed names on either side of an unknown one that are searched for a typo


class Listed(NamedTuple):
    """A listed image and its row, which is None as long as the image remains."""

    ref: ImageRef
    row: Row | None


@dataclass(frozen=True)
class Run:
    """A run to read, finished or not. ``m2f_batch.open_run`` opens one.

    ``directory`` is where it lies, and ``info`` what its run.json says: task, model, config, categories and counts.

    The files are those of the moment when rows are first asked for, so that two passes over them see the same rows.
    Open the run again to see more.
    """

    directory: RunDirectory
    info: RunInfo

    @property
    def uri(self) -> str:
        """The run directory, in its one spelling."""
        return self.directory.uri

    def is_finished(self) -> bool:
        """Return whether the run is finished and verified."""
        return self.directory.is_finished()

    @cached_property
    def _order(self) -> Order:
        return order_of(self.directory)

    def rows(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield all rows, or their ``columns``, in the order of their URIs, a few hundred at a time.

        Raises ArgumentError for a column that rows have not.
        """
        _check_columns(columns)
        return tables_by_uri(self.directory, columns, self._order)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Return all rows, or their ``columns``, as one table in memory, in the order of their URIs.

        ``rows`` yields the same, a few hundred rows at a time. Raises ArgumentError for a column that rows have not.
        """
        _check_columns(columns)
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self.rows(columns)])

    def segments(self, row: Row) -> list[Segment]:
        """Return the segments of ``row``, which give their masks and pictures. A row that failed has none."""
        _check_row(row)
        return [segment_of(entry, (row["height"], row["width"])) for entry in row["segments"]]

    def sidecar(self, name: str) -> Iterator[pa.Table]:
        """Yield the sidecar table ``name``, the part of one file of rows at a time. A file without it has no part."""
        for _, uri in self._order.files:
            path = sidecar_path(name, uri.rpartition("/")[2].removesuffix(".parquet"))
            with suppress(NotFound):
                yield self.directory.read_annotations(self.directory.path(path))

    def listed(self) -> pa.Table:
        """Return what INPUT listed, by URI: ``uri``, ``version``, ``image_id`` and the columns of its manifest."""
        return self.directory.read_manifest()

    def check_not_listed(self, uri: str, dest: str, field: str) -> None:
        """Raise UsageError of ``field`` where ``dest``, whose place is ``uri``, is an image that the run has read."""
        listed = self.listed()["uri"]
        if pc.index(listed, pa.scalar(uri, listed.type)).as_py() >= 0:
            raise UsageError("is an image of the run", field=field, value=dest, hint="give another name")

    def row(self, uri: str) -> Row | None:
        """Return the row of an image, None as long as the image remains. Takes ``uri`` and raises as ``find``."""
        return self.find(uri).row

    def find(self, uri: str) -> Listed:
        """Find an image by ``uri``: as the rows have it, in another spelling, or relative to INPUT.

        Raises ArgumentError, which names similar images, when it was not listed.
        """
        plan = self.directory.read_plan()
        if plan is None:
            raise ArgumentError(f"{self.uri} has listed no images yet", field="run", hint="try again when it has")
        listed = plan.table["uri"]
        for spelling in _spellings(uri, self.info):
            at = pc.index(listed, pa.scalar(spelling, listed.type)).as_py()
            if at >= 0:
                ref = ImageRef(spelling, plan.table["version"][at].as_py())
                return Listed(ref, self._row_in(plan.table["file"][at].as_py(), ref))
        near = ", ".join(map(uris.shown, _near(uri, listed.to_pylist())))
        hint = f"did you mean {near}?" if near else "give it as the rows spell it, or relative to here or to INPUT"
        problem = f"is none of the {len(listed):,} images that {self.uri} listed"
        raise ArgumentError(problem, field="uri", value=uris.shown(uri), hint=hint)

    def _row_in(self, file: str, ref: ImageRef) -> Row | None:
        try:
            rows = self.directory.read_annotations(self.directory.path(f"annotations/{file}.parquet"))
        except NotFound:
            return None
        at = pc.index(rows["image_id"], pa.scalar(ref.image_id, pa.int64())).as_py()
        return rows.slice(at, 1).to_pylist()[0] if at >= 0 else None

    def sample(self, n: int, where: pc.Expression | None = None, seed: int = 0) -> list[Row]:
        """Draw up to ``n`` rows at random, by URI: those for which ``where`` holds, or any.

        One ``seed`` always draws the same rows, however the run was cut into files. Without ``where`` only the files
        of the drawn rows are read, with it all are. Raises ArgumentError for an ``n`` that is no number of rows.
        """
        if not hasattr(n, "__index__") or n < 0:
            raise ArgumentError("is not allowed", field="n", value=n, allowed="0, 1, 2, ...")
        if n == 0:
            return []
        order = self._order if where is not None else _drawn(self._order, n, seed)
        drawn: list[tuple[int, int, Row]] = []  # the greatest rank first, and the number of the row breaks ties
        number = 0
        for table in tables_by_uri(self.directory, None, order):
            rows = table if where is None else table.filter(where)
            for at, rank in enumerate(_ranks(rows["image_id"].to_numpy(), seed).tolist()):
                number += 1
                if len(drawn) < n or -rank > drawn[0][0]:
                    put = heapq.heappush if len(drawn) < n else heapq.heapreplace
                    put(drawn, (-rank, number, rows.slice(at, 1).to_pylist()[0]))
        return [row for _, _, row in sorted(drawn, key=lambda each: each[1])]

    def image(self, row: Row) -> NDArray[np.uint8]:
        """Return the pixels behind ``row``, uint8 [H, W, 3], as the run's decode policy gives them.

        Raises ImageError for an image that cannot be read, has changed since it was listed, or lies outside the
        allow-lists.
        """
        from m2f_batch.vision.decode.image import decode  # not on top because machines that only submit have no Pillow

        _check_row(row)
        with using(recorded(self.info.config)):
            data = fetch(ImageRef(row["uri"], row["version"]))
        return decode(data, max_pixels=self.info.max_pixels)


def open_run(uri: str) -> Run:
    """Open a run to read. Raises UsageError where there is none, RunError where its run.json is damaged."""
    try:
        uris.check_written(uri)
        directory = open_directory(uri)
    except UsageError as error:
        raise UsageError.about("RUN", error) from None
    if not directory.holds_run():
        problem = "holds no run.json" if directory.store.is_folder(directory.uri) else "is no folder"
        raise UsageError(problem, field="RUN", value=Plain(uri), hint="give the OUTPUT of 'm2f-batch segment'")
    return Run(directory, read_info(directory))


def _check_columns(columns: list[str] | None) -> None:
    if isinstance(columns, str):
        raise ArgumentError("is a text", field="columns", value=columns, allowed=f"a list such as [{columns!r}]")
    for name in columns or ():
        if name not in SCHEMA.names:
            raise ArgumentError("is no column", field="columns", value=name, allowed=", ".join(SCHEMA.names))


def _check_row(row: Row) -> None:
    if isinstance(row, Sequence | pa.Table) or not hasattr(row, "__getitem__"):  # pandas' Series is no Mapping
        hint = "run.row(uri) gives one, and run.rows() tables of them"
        raise ArgumentError(f"is of type {type(row).__name__}", field="row", allowed="one row, a mapping", hint=hint)


def _drawn(order: Order, n: int, seed: int) -> Order:
    """Reduce an order to the ``n`` images that are drawn, where the manifest names the images of each file."""
    if not order.wanted:
        return order
    ids = np.concatenate([*order.wanted.values()])
    drawn = ids[np.argsort(_ranks(ids, seed), kind="stable")[:n]]
    wanted = {file: mine for file, all_ in order.wanted.items() if len(mine := np.intersect1d(all_, drawn))}
    return replace(order, files=[(first, file) for first, file in order.files if file in wanted], wanted=wanted)


def _ranks(image_ids: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return a random number for each image: the finalizer of SplitMix64 over its id and the seed."""
    with np.errstate(over="ignore"):
        mixed = image_ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _spellings(uri: str, info: RunInfo) -> Iterator[str]:
    yield uri
    try:
        yield uris.normalize(uri)
    except UsageError as error:
        raise ArgumentError.about("uri", error) from None
    for folder in (info.input_uri, info.input_root, uris.parent(info.input_uri)):
        with suppress(UsageError):
            if folder:
                yield uris.join(folder, uri)


def _near(uri: str, listed: list[str]) -> list[str]:
    """Return up to three listed URIs with the same file name, else with one like it. ``listed`` is sorted."""
    name = uri.rpartition("/")[2]
    same = [other for other in listed if other.rpartition("/")[2] == name]
    if same:
        return same[:3]
    at = bisect_left(listed, uris.normalize(uri))
    names = {other.rpartition("/")[2]: other for other in listed[max(0, at - NEIGHBORS) : at + NEIGHBORS]}
    return [names[near] for near in near_misses(name, names, 3)]
