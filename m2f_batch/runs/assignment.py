"""Reads from the manifest which images each file holds, or will hold, in the order of their URIs."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from m2f_batch.inputs.columns import picked
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.plan import numbered, plan_of
from m2f_batch.storage.native_memory import reader_of

COLUMNS = ["image_id", "uri", "file"]


@dataclass(frozen=True)
class Assigned:
    """The files that a manifest names, by the URI of their first image. No file is read for it.

    ``first_uris`` goes with ``names``. ``image_ids`` are those of all files, int64 [listed], file after file.
    ``images_per_unit`` is the plan's. ``is_sorted``: whether the manifest is in strict order of its uris, as it must.
    """

    names: list[str]
    first_uris: list[str]
    images_per_unit: int
    is_sorted: bool
    image_ids: NDArray[np.int64]
    _bounds: dict[str, tuple[int, int]]

    @property
    def listed(self) -> int:
        """The number of images that the manifest lists."""
        return len(self.image_ids)

    def ids(self, name: str) -> NDArray[np.int64]:
        """Return the image ids of a file, int64 [n], by URI. A file that the manifest does not name has none."""
        first, last = self._bounds.get(name, (0, 0))
        return self.image_ids[first:last]

    def images(self, name: str) -> int:
        """Return the number of images that a file is to hold, which is 0 if the manifest does not name it."""
        first, last = self._bounds.get(name, (0, 0))
        return last - first


def read_assigned(run: RunDirectory) -> Assigned | None:
    """Read which images each file holds from a run's manifest. None if it does not name files."""
    source = reader_of(run.store.read(run.path("_state/manifest.parquet")))
    if "file" not in pq.read_schema(source).names:
        return None
    return assigned_of(pq.read_table(source, columns=COLUMNS, read_dictionary=["file"]))


def assigned_of(manifest: pa.Table) -> Assigned:
    """Return the same of a manifest with the columns COLUMNS."""
    plan = plan_of(manifest)
    files = numbered(manifest["file"]) if plan is None else plan.files()
    codes, names = np.asarray(files.indices), files.dictionary.to_pylist()  # numbered as they first appear
    counts = np.bincount(codes, minlength=len(names))
    ends = np.cumsum(counts)
    uris, ids = manifest["uri"], manifest["image_id"].to_numpy()
    if (codes[1:] < codes[:-1]).any():
        order = np.argsort(codes, kind="stable")
        firsts, ids = order[ends - counts], ids[order]
    else:  # as a plan cuts what it has not seen before
        firsts = ends - counts
    return Assigned(
        names,
        picked(uris, firsts).to_pylist(),
        plan.images_per_unit if plan is not None else len(codes),
        bool(pc.all(pc.less(uris[:-1], uris[1:])).as_py() in (True, None)),
        ids,
        {name: (int(end - count), int(end)) for name, count, end in zip(names, counts, ends, strict=True)},
    )
