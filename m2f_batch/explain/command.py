"""``m2f-batch explain RUN URI [DEST]``: one image again, with every picture and number on its way to its row."""

import re
from collections.abc import Callable
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.records import ImageRef
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import Run, open_run
from m2f_batch.storage import uris
from m2f_batch.storage.places import Place, writable_folder
from m2f_batch.storage.s3.settings import recorded, using

FILES = ("explain.json", "decoded.png", "canvas.png", "queries.png", "overlay.png", "difference.png")


def explain(run_uri: str, uri: str, dest: str | None = None, *, say: Callable[..., None]) -> dict[str, Any]:
    """Re-run one image of a run, and write the evidence to ``dest``, a directory or a prefix.

    Returns the comparison of the result with the run's row. ``say`` is given the lines for a person as soon as they are
    known, because the image may end the process. Raises UsageError, before anything is written, for an
    image that the run did not list, a model that is gone, or a ``dest`` that cannot be.
    """
    run = open_run(run_uri)
    with using(recorded(run.info.config)):
        return _explain(run, uri, dest, say)


def _explain(run: Run, uri: str, dest: str | None, say: Callable[..., None]) -> dict[str, Any]:
    try:
        ref, stored = run.find(uri)
    except UsageError as error:
        raise error.with_field(error.field.upper()) from None
    folder = _folder(dest or f"explain-{_name_of(ref)}", run.info)
    # torch is loaded only for an image that there is
    from m2f_batch.explain import report, rerun
    from m2f_batch.explain.recorded import read_setup
    from m2f_batch.explain.summary import lines_of_input, lines_of_result

    setup, found = read_setup(run.info), rerun.Findings(ref)
    rerun.read_and_prepare(found, setup, stored)
    say(*lines_of_input(found, setup))  # at once: what kills the process comes after it
    try:
        if found.prepared is not None:
            rerun.label(found, setup)
    finally:  # of a bug, too, all that was got before it
        result = report.report_of(found, setup, stored)
        say(*lines_of_result(found, setup, result))
        written = []
        folder.store.delete([f"{folder.uri}/{name}" for name in FILES])  # of an earlier explanation
        for name, content in report.files_of(found, setup, stored, result):
            folder.store.write(f"{folder.uri}/{name}", content)
            written.append(name)
        say(f"wrote   {folder.uri}: {', '.join(sorted(written))}")
    return result.comparison


def _name_of(ref: ImageRef) -> str:
    """The image's name without extension, fit for a directory's."""
    stem = ref.uri.rstrip("/").rpartition("/")[2].rpartition(".")
    return re.sub(r"[^\w.-]+", "_", stem[0] or stem[2])


def _folder(dest: str, info: RunInfo) -> Place:
    """Returns DEST. Raises UsageError where nothing should, or can, be written."""
    folder = writable_folder(dest, "DEST")
    if uris.is_inside(folder.uri, info.input_uri):
        raise UsageError(
            "lies inside INPUT, where the next run would take pictures for images", field="DEST", value=dest
        )
    return folder
