"""Recognizes the format of a file or folder of annotations by what is in it: those that are read, and others by name.

This serves messages, and commands that are not told the format. Nothing is checked here: a file may look like COCO and
have no image.
"""

import posixpath
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple, ParamSpec, cast

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import NOTES, Finding, Report, stop
from m2f_batch.datasets.format import FileLook, FolderLook, extension_of, formats
from m2f_batch.datasets.recognize.unread import (
    ARCHIVES,
    IMAGES,
    Unread,
    unread_file,
    unread_images,
    unread_labels,
    unread_masks,
)
from m2f_batch.errors import RunError, UsageError
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_place, open_store

_TRIED = 5  # files of one extension that are looked into

_Arguments = ParamSpec("_Arguments")


class Known(NamedTuple):
    """The format that ``place`` looks like, in ``words``.

    ``form`` is its ``data.format``, None where it is not read. ``advice`` says what to do then, and ``why`` why not.
    """

    words: str
    form: str | None
    place: str
    advice: str = ""
    why: str = ""

    @property
    def refusal(self) -> str:
        """Say in a message that a format is not read."""
        return f"looks like {self.words}{self.why}: {self.advice}"


def look_at(annotations: str) -> Known | None:
    """Returns the format of a file or folder, or None where nothing tells it or it cannot be read."""
    try:
        place = open_place(annotations)
        is_folder = place.store.is_folder(place.uri)
        return _of_folder(place.uri) if is_folder else _of_file(place.uri, files.fetch(place.uri))
    except (UsageError, RunError):
        return None


def misnamed(form: str, annotations: str) -> UsageError | None:
    """Returns the mistake where annotations that are to be read as ``form`` look like something else, else None."""
    found = look_at(annotations)
    if found is None:
        return None
    is_same = found.form == form or (found.form is not None and _are_masks(found.form) and _are_masks(form))
    place = uris.normalize(annotations)
    if is_same and found.place == place:
        return None
    if found.form is None:
        if found.words == IMAGES and _are_masks(form):
            return None  # the reader says more: which of them has no mask, or is none
        return UsageError(found.refusal, field="data.train", value=annotations)
    wanted = [] if is_same else [f"data.format={found.form}"]
    wanted += [f"its file {found.place!r}"] if found.place != place else []
    return UsageError(f"looks like {found.words}: give {' and '.join(wanted)}", field="data.train", value=annotations)


def _are_masks(form: str) -> bool:
    """Says whether annotations are mask files, which look alike whatever their values mean."""
    return formats()[form].size_from == "mask"


def naming_formats(read: Callable[_Arguments, Dataset]) -> Callable[_Arguments, Dataset]:
    """Returns a reader (form, annotations, ..., report=...) that says so where ``annotations`` are of another format.

    They are looked at once something is wrong with them, before it is reported: the faults of a good file by another
    format's rules tell nobody anything. Raises UsageError then, too.
    """

    @wraps(read)
    def reading(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> Dataset:
        form, annotations = map(str, arguments[:2])
        report = cast("Report", options.get("report", stop))
        looked: list[bool] = []

        def look() -> None:
            if not looked:
                looked.append(True)
                mistake = misnamed(form, annotations)
                if mistake:
                    raise mistake

        def watch(finding: Finding) -> None:
            if finding.kind not in NOTES:
                look()
            report(finding)

        known = formats().get(form)
        if known is None or known.read is None:
            return read(*arguments, **options)  # says which are
        if known.extensions and extension_of(annotations) not in known.extensions:
            look()
        options["report"] = watch
        try:
            return read(*arguments, **options)
        except UsageError:
            look()
            raise

    return reading


def look_into(place: str) -> FolderLook:
    """Returns the paths of the files of a folder."""
    by_extension: dict[str, list[str]] = {}
    for path in sorted(uris.below(place, entry.uri) for entry in open_store(place).list(place)):
        if not is_hidden(path):
            by_extension.setdefault(extension_of(path), []).append(path)
    return FolderLook(place, by_extension)


def _of_folder(place: str) -> Known | None:
    look = look_into(place)
    if look.is_run:
        advice = "export it first: m2f-batch export RUN file.json --format coco"
        return _unread(Unread("a run of m2f-batch", advice), place)
    settings = look.paths("yaml", "yml")
    found = _first(place, sorted(settings, key=lambda path: path.count("/")))
    return found or _of_labels(look) or _of_masks(look)


def _of_labels(look: FolderLook) -> Known | None:
    """Tells a format by the label files of a folder: JSON, files of a format's own, XML, the lines of YOLO."""
    jsons = look.paths("json")
    found = _first(look.place, sorted(jsons, key=_looks_unannotated)[:_TRIED])
    if found is None:
        own = {extension for known in formats().values() for extension in known.extensions}
        found = _first(look.place, look.paths(*sorted(own - {"yaml", "yml", "json"}))[:_TRIED])
    if found is not None:
        is_one_each = len(jsons) > 1 if found.form is None else formats()[found.form].is_folder
        return found._replace(place=look.place) if is_one_each else found
    found = _first(look.place, look.paths("xml")[:1])
    return found._replace(place=look.place) if found else _unread(unread_labels(look), look.place)


def _looks_unannotated(path: str) -> tuple[bool, bool]:
    """Sorts files of objects first, those of images without annotations last, by what COCO's own tree calls them."""
    name = posixpath.basename(path)
    return name.startswith("image_info"), not name.startswith("instances")


def _of_masks(look: FolderLook) -> Known | None:
    if unread := unread_masks(look) or unread_images(look):
        return _unread(unread, look.place)
    for known in formats().values():
        words = known.sniff_folder(look) if known.sniff_folder else None
        if words:
            return Known(words, known.name, look.place)
    archived = look.paths("tfrecord", "record", "parquet", "csv", *ARCHIVES)
    return _of_file(uris.join(look.place, archived[0]), b"") if archived and not look.has_images else None


def _first(place: str, paths: Sequence[str]) -> Known | None:
    """Returns the format of the first file that is known."""
    found = (_of_file(uri, files.fetch(uri)) for uri in (uris.join(place, path) for path in paths))
    return next((known for known in found if known is not None), None)


def _of_file(place: str, data: bytes) -> Known | None:
    look = FileLook(place, data)
    for known in formats().values():
        words = known.sniff_file(look) if known.sniff_file else None
        if words:
            return Known(words, known.name, place)
    return _unread(unread_file(look), place)


def _unread(unread: Unread | None, place: str) -> Known | None:
    return None if unread is None else Known(unread.words, None, place, unread.advice, unread.why)
