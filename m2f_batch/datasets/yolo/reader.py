"""Reads YOLO segmentation: ``data.yaml``, folders ``images/`` and ``labels/``, one line "class x y x y ..." per object.

https://docs.ultralytics.com/datasets/segment/. Coordinates are shares of width and height. An object of several parts
stands in one line, each part closed by its first point again. Pixels in an even number of parts are a hole. That is
also what one closed outline with seams between its parts means, as Ultralytics' own converters write it.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import even_odd_rle
from m2f_batch.datasets.pixel_cap import size_of
from m2f_batch.datasets.png.masks_beside import alike
from m2f_batch.datasets.yolo.lines import KEY_POINTS, parse_line, parts_of
from m2f_batch.datasets.yolo.settings import Settings, read_settings, sources_of
from m2f_batch.errors import DecodeError
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import ObjectError

_NO_LABELS = ("classes", "labels", "names", "notes", "readme", "train", "val", "valid", "test")  # texts beside labels
_MOST_LISTED = 200_000  # files around data.yaml: it may lie in a folder of everything
_FEWEST_LINES = 3  # of one length, each a box and points in it, are no outlines
_Pairs = list[tuple[str, str]]  # (image, its label file)


def read_yolo(
    place: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    split: str = "train",
    report: Report = stop,
) -> Dataset:
    """Returns the dataset of one ``split`` of a ``data.yaml``.

    ``images`` is a folder to use instead of the split's, ``masks`` the folder of its label files, by default where
    ``images`` in its path is ``labels``. An image without a label file has no objects. Category ids are the file's
    classes. Raises UsageError for what cannot be read at all. What is wrong in it goes to ``report``.
    """
    settings = read_settings(place, report)
    sources = [images] if images else sources_of(settings, split, report)
    found = [pair for source in sources for pair in _labeled(source, masks, settings.place, report)]
    found, present = _with_labels(found, settings.place, report)
    read_one = partial(_read, present=present, settings=settings)
    rows = [*files.numbered(files.rows_of(read_one, sorted(dict(found).items()), report, itemgetter(0)))]
    for finding in _by_all_lines(rows, settings.place):
        report(finding)
    return dataset_of([Category(number, name, True) for number, name in settings.names.items()], rows)


def _labeled(source: str, masks: str | None, place: str, report: Report) -> _Pairs:
    """Returns the images of a folder, or of a text file that lists them, and where their label files should be."""
    if source.endswith(".txt") and not files.is_folder(source, "data.train_images"):
        images = _of_list(uris.normalize(source), place, report)
        if masks:
            folder = uris.normalize(masks)
            return [(image, f"{folder}/{posixpath.splitext(posixpath.basename(image))[0]}.txt") for image in images]
        return [(image, label_of(image)) for image in images]
    folder = files.folder_of(source, "data.train_images")
    listed = files.list_images(folder, report)
    if masks:
        labels = files.folder_of(masks, "data.train_masks")
        return [(image, uris.join(labels, f"{stem}.txt")) for stem, image in listed.items()]
    return [(image, label_of(image)) for image in listed.values()]


def _of_list(source: str, place: str, report: Report) -> list[str]:
    """Finds the images that a list names, relative to it, or of another machine by their last folders below here."""
    names = [line.strip() for line in files.read_text(source, "data.train").splitlines() if line.strip()]
    folder, root = uris.parent(source), uris.parent(place)
    top = root if f"{folder}/".startswith(f"{root.rstrip('/')}/") else folder
    found = files.find_named(
        names, top, report, lambda at: f"{source}: name {at + 1:,}", bases=[folder] * len(names), but=None
    )
    return [image for image in found if image is not None]


def label_of(image: str) -> str:
    """Returns the label file of an image: the last ``/images/`` of its path becomes ``/labels/``.

    >>> label_of("/data/images/train/a.b.jpg")
    '/data/labels/train/a.b.txt'
    """
    before, found, after = image.rpartition("/images/")
    stem = posixpath.splitext(after)[0]
    return f"{before}/labels/{stem}.txt" if found else f"{stem}.txt"


def _with_labels(found: _Pairs, place: str, report: Report) -> tuple[_Pairs, frozenset[str]]:
    """The pairs, with label files of another spelling for those that have none, and the label files that are there.

    Reported are images without a label file, and label files that no image goes with.
    """
    folders = {uris.parent(label) for _, label in found}
    entries = {entry.uri: folder for folder in folders for entry in open_store(folder).list(folder)}
    there = {uri for uri in entries if uri.lower().endswith(".txt")}
    taken = {label for _, label in found}
    spare = {_stem(uri): uri for uri in there - taken if _is_label(uris.below(entries[uri], uri))}
    for stem in _stems_of_others(found, {*spare}):
        del spare[stem]
    alone = {_stem(label): image for image, label in found if label not in there}
    spelled = alike(alone, spare)
    if spelled:
        one = next(iter(spelled))
        text = f"{len(spelled):,} images go with a label file whose name is spelled otherwise"
        report(Finding("other-name", place, f"{text} ({alone[one]}: {spare[spelled[one]]})"))
        meant = {alone[stem]: spare.pop(other) for stem, other in spelled.items()}
        found = [(image, meant.get(image, label)) for image, label in found]
    left = [image for image, label in found if label not in there]
    if left:
        wanted = f", e.g. {found[0][1]!r}" if len(left) == len(found) else ""
        text = f"{len(left):,} of {len(found):,} images have no label file{wanted}: no objects ({examples(left)})"
        report(Finding("unlabelled-image", place, text))
    if left and len(left) == len(found):
        for finding in _elsewhere(left, place):
            report(finding)
    if spare:
        text = f"{len(spare):,} label files go with no image ({examples(sorted(spare.values()))})"
        if left:
            text += f", and {len(left):,} images have no label file: their objects may be what these hold"
        report(Finding("lost-labels" if left else "spare-labels", place, text))
    return found, frozenset(there)


def _elsewhere(images: Sequence[str], place: str) -> Iterator[Finding]:
    """Yields the folder, below that of ``data.yaml``, with label files of the names of images that all have none."""
    stems = {posixpath.splitext(posixpath.basename(image))[0] for image in images}
    texts = [
        uri
        for uri in files.list_all(uris.parent(place), ("txt",), _MOST_LISTED)
        if posixpath.basename(_stem(uri)) in stems
    ]
    if texts:
        folder, count = Counter(uris.parent(uri) for uri in texts).most_common(1)[0]
        text = f"{count:,} label files of these names are in {folder!r}, where nothing looks for them: "
        yield Finding("lost-labels", place, text + "data.train_masks names the folder of the label files")


def _stem(uri: str) -> str:
    return uri[:-4] if uri.lower().endswith(".txt") else uri


def _is_label(path: str) -> bool:
    """Says whether a text among label files is one, too, by its name."""
    return not is_hidden(path) and posixpath.basename(path).casefold().partition(".")[0] not in _NO_LABELS


def _stems_of_others(found: _Pairs, spare: set[str]) -> set[str]:
    """Those of ``spare`` labels whose images are there, and only not among those that are to be read."""
    if not spare:
        return set()
    folders = {uris.parent(image) for image, _ in found}
    entries = (entry.uri for folder in folders for entry in open_store(folder).list(folder))
    theirs = {_stem(label_of(uri)) for uri in entries if not uri.lower().endswith(".txt")}
    return spare & theirs - {_stem(label) for _, label in found}


def _read(pair: tuple[str, str], present: frozenset[str], settings: Settings) -> files.Read:
    """Reads a row. Its ``lines`` are the outlines of its label file as they stand there."""
    image, label = pair
    try:
        height, width = size_hw = size_of(files.fetch(image))
    except (DecodeError, ObjectError) as error:
        return None, [Finding("missing-image", image, f"its size is not known: {error}")]
    row: files.Row = {"uri": image, "height": height, "width": width, "segments": [], "lines": []}
    if label not in present:
        return row, []
    try:
        texts = files.fetch(label).decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, ObjectError) as error:
        return row, [Finding("unreadable-mask", label, str(error))]
    positions = {number: position for position, number in enumerate(settings.names)}
    findings = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        line = parse_line(text, f"{label}: line {number}", positions, settings.key_points)
        if isinstance(line, Finding):
            findings.append(line)
            continue
        counts = even_odd_rle(parts_of(line.points, size_hw), size_hw)
        row["segments"].append({"category": positions[line.category], "iscrowd": False, "counts": counts})
        row["lines"].append((line.may_be_key_points, line.has_four_corners, line.numbers_in_box))
    return row, findings


def _by_all_lines(rows: Sequence[files.Row], place: str) -> Iterator[Finding]:
    """Finds labels of another task, which only all lines together tell. Takes ``lines`` out of the rows."""
    lines = [line for row in rows for line in row.pop("lines")]
    are_pairs = len(lines) >= _FEWEST_LINES and len({count for _, _, count in lines}) == 1 and bool(lines[0][2])
    if lines and (are_pairs or all(may_be_key_points for may_be_key_points, _, _ in lines)):
        for row in rows:
            row["segments"] = []
        kind = f"{lines[0][2] // 2 - 2} key points (x, y) in it" if are_pairs else "key points (x, y, visible)"
        text = f"all {len(lines):,} lines are a box and {kind}: {KEY_POINTS}"
        yield Finding("no-mask", place, text)
    elif lines and all(has_four_corners for _, has_four_corners, _ in lines):
        text = f"all {len(lines):,} outlines have four corners: oriented boxes (OBB) look so, and teach boxes as masks"
        yield Finding("four-corners", place, text)
