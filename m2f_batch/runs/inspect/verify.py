"""Proves from storage alone that a run lost nothing and doubled nothing, and that its masks are what they say."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.processes import in_processes
from m2f_batch.records import SCHEMA
from m2f_batch.runs.assignment import Assigned, read_assigned
from m2f_batch.runs.directory import DamagedFile, RunDirectory, open_directory
from m2f_batch.runs.index import IndexEntry, entry_of, staged_images
from m2f_batch.runs.info import RunInfo, read_info
from m2f_batch.runs.inspect.row_checks import row_problems
from m2f_batch.runs.reader import open_run
from m2f_batch.runs.tally import Tally
from m2f_batch.runs.writing.sidecars import names_in, sidecar_path
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry, NotFound

MOST_LINES = 20  # of problems of one file
SERIAL_BYTES = 64 << 20  # so much is read before other processes would have started

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FileReport:
    """The counts of one file of rows and its problems, one line each, which begins with the place.

    ``version`` is that of the object that was read. ``missing``: assigned images without a row. ``ids``: those of its
    rows, where none were assigned. ``foreign`` counts rows that the manifest does not give this file, ``example`` is
    the uri of one.
    """

    file: str
    version: str
    rows: int = 0
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    missing: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    ids: Ids | None = None
    foreign: int = 0
    example: str = ""

    def entry(self) -> IndexEntry:
        """Return what the index keeps of the file."""
        is_sound = not self.problems and not self.foreign
        return replace(entry_of(self.version, self.tally), verified=is_sound)


# what ``check_file`` takes
Check = tuple[str, str, Ids | None, str, dict[int, str], bool]
# a map over such arguments, in any order
Each = Callable[[Callable[[Check], FileReport], Iterable[Check]], Iterable[FileReport]]


def check_file(
    run_uri: str, file: str, ids: Ids | None, task: str, names: dict[int, str], may_be_empty: bool = False
) -> FileReport:
    """Read one file of rows, RUN/annotations/``file``.parquet, and check all that can be without the others.

    The schema is exact. Rows are sorted by uri, and each is sound by itself (``row_checks``). They are those of the
    image ``ids`` that the manifest gives this file, each once. ``ids`` None: any, and the report has them. ``names``
    are the model's labels. The sidecars of the file are there, and hold nothing of other images.
    """
    run = open_directory(run_uri)
    uri = run.path(f"annotations/{file}.parquet")
    data, entry = retry_write(lambda: run.store.read_entry(uri))
    assigned = np.zeros(0, np.int64) if ids is None else ids
    try:
        rows = run.parse_annotations(uri, data)
    except DamagedFile as error:
        return FileReport(file, entry.version, problems=[str(error)], missing=assigned)
    if not rows.schema.equals(SCHEMA):
        problem = f"{uri}: its schema is not the frozen one"
        return FileReport(file, entry.version, problems=[problem], missing=assigned)
    tally = Tally()
    tally.add(rows)
    found = rows["image_id"].to_numpy()
    foreign = np.zeros(0, np.int64) if ids is None else np.flatnonzero(~np.isin(found, ids))
    missing = np.setdiff1d(assigned, found)
    problems = [*_file_problems(rows, uri, missing if ids is not None else None), *_sidecar_problems(run, file, rows)]
    problems += _capped(row_problems(rows, task, names, may_be_empty), uri, MOST_LINES - len(problems))
    return FileReport(
        file,
        entry.version,
        rows=rows.num_rows,
        tally=tally,
        problems=problems,
        missing=missing,
        ids=np.array(found) if ids is None else None,
        foreign=len(foreign),
        example=rows["uri"][int(foreign[0])].as_py() if len(foreign) else "",
    )


def _file_problems(rows: pa.Table, uri: str, missing: Ids | None) -> Iterator[str]:
    uris = rows["uri"].to_pylist()
    at = next((at for at in range(1, len(uris)) if uris[at] < uris[at - 1]), None)
    if at is not None:
        yield f"{uri}: its rows are not sorted by uri: {uris[at]} stands after {uris[at - 1]}"
    if missing is None:
        return
    ids, counts = np.unique(rows["image_id"].to_numpy(), return_counts=True)
    if (counts > 1).any():
        yield f"{uri}: {(counts > 1).sum()} image ids have more than one row, e.g. {ids[counts > 1][0]}"
    if len(missing):
        yield f"{uri}: {len(missing)} images of this file have no row, e.g. that of image_id {missing[0]}"


def _sidecar_problems(run: RunDirectory, file: str, rows: pa.Table) -> Iterator[str]:
    """Yield what is wrong with the sidecars that the rows of a file were committed with."""
    for name in names_in(rows):
        uri = run.path(sidecar_path(name, file))
        try:
            images = retry_write(partial(run.read_annotations, uri, ["image_id"]))["image_id"].to_numpy()
        except NotFound:
            yield f"{uri}: is missing, and was committed with the rows of {file}"
        except DamagedFile as error:
            yield str(error)
        else:
            foreign = np.setdiff1d(images, rows["image_id"].to_numpy())
            if len(foreign):
                yield f"{uri}: holds {len(foreign)} images that have no row in this file, e.g. image_id {foreign[0]}"


def _capped(problems: Iterator[str], uri: str, most: int) -> list[str]:
    lines: list[str] = []
    more = 0
    for problem in problems:
        if len(lines) < most:
            lines.append(problem)
        else:
            more += 1
    return lines + ([f"{uri}: {more} further problems of its rows"] if more else [])


def check(arguments: Check) -> FileReport:
    """Return ``check_file`` of one argument, for any kind of map."""
    return check_file(*arguments)


@dataclass(frozen=True)
class Verification:
    """The problems of a run, one line each, the reports of its files by name, and counts of images."""

    problems: list[str]
    reports: list[FileReport]
    listed: int
    remaining: int


def verify(
    run: RunDirectory, task: str, *, each: Each = map, known: Mapping[str, IndexEntry] | None = None
) -> list[str]:
    """Return the problems of a run, one line each. An empty list is the proof. See ``verify_reports``."""
    return verify_reports(run, task, each=each, known=known).problems


def verify_reports(
    run: RunDirectory, task: str, *, each: Each = map, known: Mapping[str, IndexEntry] | None = None
) -> Verification:
    """Check a whole run, and return its problems and what its files hold.

    Each listed image has exactly one row, in the file that the manifest names for it, and no other row is there. Each
    file is what ``check_file`` asks. The totals of a finished run are those of run.json, which is some seconds behind
    in a run that goes on or was killed. Rows that are about to be dropped, as _state/dirty.json says, and units
    that wait for others of their file are no problem.

    ``each`` maps over the files, in any order. Of a file that is ``known``, as verified and of the same version, only
    the entry is looked at.
    """
    info, foreign = retry_write(lambda: read_info(run)), retry_write(run.foreign_files)
    problems = [f"{file}: is not of this run, and readers would take it for rows" for file in foreign]
    assigned, there = retry_write(lambda: read_assigned(run)), retry_write(run.committed)
    trusted = {} if assigned is None or known is None else _trusted(known, there, assigned)
    may_be_empty = bool(info.postprocess.get("keep_empty"))
    checks = (
        (run.uri, name, None if assigned is None else assigned.ids(name), task, info.names, may_be_empty)
        for name in sorted(there)
        if name not in trusted
    )
    reports = sorted([*trusted.values(), *each(check, checks)], key=lambda report: report.file)
    problems += [problem for report in reports for problem in report.problems]
    if assigned is None:  # of a run whose manifest names no files
        listed = run.read_manifest()["image_id"].to_numpy()
        rows = np.concatenate([np.zeros(0, np.int64), *(report.ids for report in reports if report.ids is not None)])
        problems += _id_problems(rows, listed)
        lost = listed[~np.isin(listed, rows)]
    else:
        listed = assigned.image_ids
        is_changing = _is_changing(run, info)
        if is_changing:  # run.json is still that of the plan before
            info = replace(info, finished_at=None, images=replace(info.images, listed=len(listed)))
        found = [report for report in reports if assigned.images(report.file) or not is_changing]
        problems += [*_plan_problems(listed, assigned), *_foreign_problems(run, assigned, found)]
        absent = (assigned.ids(name) for name in assigned.names if name not in there)
        lost = np.concatenate([np.zeros(0, np.int64), *absent, *(report.missing for report in reports)])
    problems += _remaining_problems(run, info, len(listed), lost)
    if info.finished_at:
        problems += _total_problems(reports, info)
    return Verification(problems, reports, len(listed), len(lost))


def _is_changing(run: RunDirectory, info: RunInfo) -> bool:
    """Return whether a new plan was written and the files are not yet as it says."""
    if info.plan is None or run.is_finished():
        return False
    plan = retry_write(run.read_plan)
    return plan is not None and plan.plan_id != info.plan


def _trusted(known: Mapping[str, IndexEntry], there: Mapping[str, Entry], assigned: Assigned) -> dict[str, FileReport]:
    """Reports of files that need not be read: verified as they are, and with as many rows as they should have."""
    return {
        name: FileReport(name, entry.version, entry.rows, entry.tally())
        for name, entry in known.items()
        if entry.verified and name in there and there[name].version == entry.version
        if entry.rows == assigned.images(name)
    }


def _id_problems(rows: Ids, listed: Ids) -> Iterator[str]:
    """Yield what is wrong with the image ids of all rows, by the listing."""
    ids, counts = np.unique(rows, return_counts=True)
    doubled = ids[counts > 1]
    if len(doubled):
        yield f"{len(doubled)} image ids have more than one row, e.g. {doubled[0]}"
    unlisted = np.setdiff1d(ids, listed)
    if len(unlisted):
        yield f"{len(unlisted)} rows are of images that were not listed, e.g. {unlisted[0]}"


def _plan_problems(listed: Ids, assigned: Assigned) -> Iterator[str]:
    ids, counts = np.unique(listed, return_counts=True)
    if len(ids) < len(listed):
        yield f"the manifest has {(counts > 1).sum()} image ids more than once, e.g. {ids[counts > 1][0]}"
    if not assigned.is_sorted:
        yield "the manifest is not in the order of its uris, or has one twice"


def _foreign_problems(run: RunDirectory, assigned: Assigned, reports: list[FileReport]) -> Iterator[str]:
    """Yield rows that the manifest does not give the file that they are in, unless they are about to be dropped."""
    plan = retry_write(run.read_plan) if any(report.foreign for report in reports) else None
    dirty = retry_write(lambda: run.read_dirty(plan.plan_id)) if plan is not None else []
    for report in reports:
        if report.foreign and report.file not in dirty:
            uri = run.path(f"annotations/{report.file}.parquet")
            what = "does not give this file" if assigned.images(report.file) else "gives another file, or does not name"
            yield f"{uri}: {report.foreign} rows are of images that the manifest {what}, e.g. {report.example}"


def _remaining_problems(run: RunDirectory, info: RunInfo, listed: int, lost: Ids) -> Iterator[str]:
    """``lost`` are the ids of listed images that have no row."""
    said, is_finished = info.images.remaining, run.is_finished()
    is_wrong = bool(info.finished_at) and len(lost) != said
    example = f", e.g. {_uri_of(run, lost)}" if len(lost) and (is_wrong or is_finished) else ""
    if is_wrong:
        yield f"{len(lost)} listed images have no row{example}; run.json says {said} remain"
    if info.images.listed != listed:
        yield f"run.json says {info.images.listed} images were listed; the manifest holds {listed}"
    if is_finished and len(lost):
        yield f"_SUCCESS is there although {len(lost)} images remain{example}"


def _uri_of(run: RunDirectory, ids: Ids) -> str:
    manifest = run.read_manifest()
    return str(manifest["uri"][int(np.flatnonzero(np.isin(manifest["image_id"].to_numpy(), ids))[0])])


def _total_problems(reports: list[FileReport], info: RunInfo) -> Iterator[str]:
    tally = _tally(reports)
    said = {"ok": info.images.ok, "error": info.images.error, "segments": info.segments}
    held = {"ok": tally.ok, "error": tally.error, "segments": tally.segments}
    if said != held:
        yield f"run.json counts {said}; the files hold {held}"
    if info.errors != tally.reasons:
        yield f"run.json counts the errors {info.errors}; the files hold {dict(tally.reasons)}"


def _tally(reports: Iterable[FileReport]) -> Tally:
    return sum((report.tally for report in reports), start=Tally())


def verify_run(run_uri: str) -> dict[str, Any]:
    """Return the problems of a run, and what its files hold. Raises UsageError where there is none."""
    opened = open_run(run_uri)
    run, info = opened.directory, opened.info
    sizes = [entry.size for entry in run.committed().values()]
    is_small = len(sizes) < 2 or sum(sizes) < SERIAL_BYTES or os.cpu_count() == 1
    found = verify_reports(run, info.task, each=map if is_small else in_processes)
    tally = _tally(found.reports)
    counts = {"ok": tally.ok, "error": tally.error, "remaining": found.remaining, "staged": _staged(run)}
    return {
        "run": run.uri,
        "run_id": info.run_id,
        "problems": found.problems,
        "finished": run.is_finished(),
        "images": {"listed": found.listed, **counts},
        "segments": tally.segments,
    }


def verified_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that tell a person what ``verify_run`` found."""
    images, problems = found["images"], found["problems"]
    yield from problems
    staged = f"; {images['staged']:,} of those that remain are staged" if images["staged"] else ""
    yield (
        f"{found['run']}: {f'{len(problems)} problems' if problems else 'verified'}; "
        f"{'finished' if found['finished'] else 'not finished'}; "
        f"{images['listed']:,} listed = {images['ok']:,} ok + {images['error']:,} error + "
        f"{images['remaining']:,} remaining; {found['segments']:,} segments{staged}"
    )


def _staged(run: RunDirectory) -> int:
    """Return images that are done, of files that are not whole yet, and so not visible, nor checked."""
    assigned = read_assigned(run)
    return 0 if assigned is None else staged_images(run, assigned, run.committed())
