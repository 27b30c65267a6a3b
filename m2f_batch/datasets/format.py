"""Defines the record of an annotation format: how its annotations are recognized, read and written.

Each file of ``formats`` defines one record as FORMAT, and no table lists them. The records are loaded for every help
text, so such a file imports what reads and writes inside its functions.
"""

import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2f_batch.config.formats import FormatKeys, all_formats
from m2f_batch.config.segment import Task
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS
from m2f_batch.storage import uris

if TYPE_CHECKING:
    from m2f_batch.config.data import ClassNames, Palette
    from m2f_batch.datasets.annotated import AnnotatedImages
    from m2f_batch.datasets.dataset import Dataset, Stated
    from m2f_batch.datasets.findings import Finding, Report


PARSED = 64 << 20  # bytes of a JSON that is parsed, because a larger one is only searched for some words
START = 65536  # bytes
PART = "data.part"  # the field of ``Source.split`` in messages: no key, but an option of some commands


@dataclass(frozen=True)
class FileLook:
    """A file: its uri and its bytes."""

    place: str
    data: bytes

    @property
    def extension(self) -> str:
        """The extension in lower case, without the dot."""
        return extension_of(self.place)

    @cached_property
    def start(self) -> bytes:
        """The first bytes, from the first that is no blank."""
        return self.data[:START].lstrip(b"\xef\xbb\xbf \t\r\n")

    @cached_property
    def document(self) -> Any:
        """Gives the parsed JSON, or None for a file that is none, or YAML by its name.

        Of JSON lines it is the first, in a list. Of a large COCO JSON it is one that tells its kind alone.
        """
        is_json = self.extension not in ("yaml", "yml") and self.start.startswith((b"{", b"["))
        return _parsed(self.data) if is_json else None


@dataclass(frozen=True)
class FolderLook:
    """A folder: its uri and the paths of its files below it, by extension, without the hidden ones."""

    place: str
    by_extension: Mapping[str, Sequence[str]]

    def paths(self, *extensions: str) -> list[str]:
        """Returns the paths of the files with some extensions, one extension after the other."""
        return [path for extension in extensions for path in self.by_extension.get(extension, ())]

    @property
    def is_run(self) -> bool:
        """Says whether it is the OUTPUT of a run."""
        return "run.json" in self.paths("json") and any(
            path.startswith("annotations/") for path in self.paths("parquet")
        )

    @property
    def has_images(self) -> bool:
        """Says whether there is a file with the extension of an image."""
        return not IMAGE_EXTENSIONS.isdisjoint(self.by_extension)

    @cached_property
    def image_stems(self) -> set[str]:
        """The names of the images, without folder and extension."""
        return {posixpath.splitext(posixpath.basename(path))[0] for path in self.paths(*IMAGE_EXTENSIONS)}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The annotations that a reader reads, and what was set for them: the ``data`` section of one split.

    ``split`` chooses in a ``data.yaml`` of YOLO, and means nothing elsewhere.
    """

    annotations: str
    images: str | None = None
    masks: str | None = None
    ignore_index: int | None = None
    do_reduce_labels: bool = False
    names: "ClassNames | None" = None
    mask_suffix: str | None = None
    palette: "Palette | None" = None
    split: str = "train"

    @cached_property
    def place(self) -> str:
        """The one spelling of ``annotations``."""
        return uris.normalize(self.annotations)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The place that a writer writes.

    Attributes:
        dest: the uri of DEST. A format that is a folder is written below it.
        staging: a local folder. A format that is a file leaves one file here for each split, with the name of the
            split. The command uploads them once all are whole.
        option: the option that has chosen the format, for messages.
        source: the argument that names what is written, for messages.
        hint: what a user can do about images that are not there.
    """

    dest: str
    staging: Path
    option: str
    source: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Format(FormatKeys):
    """An annotation format.

    Attributes:
        read: gives the dataset of a Source, and what is wrong in its files to the Report.
        is_folder: whether the annotations are a folder of files, one or more for each image, and no single file.
        extensions: the only extensions of the file that is given. Files of others are looked at before they are read.
        size_from: the file that says how large an image is.
        keeps_unlabeled: whether an image without a label file has a row, as one without objects.
        sniff_file: says what a file looks like, in words for people, where it is of this format.
        sniff_folder: the same for a folder.
        is_meant: whether a place, its files where it is a folder, and the folder of masks, if any, mean this format
            where nothing else tells.
        stated: gives the boxes and areas that annotations state beside their masks, by image id, and findings.
        write: writes the splits of some images to a Target, and yields lines for people: what was written, and what
            was left out.
        suffix: the ending of the one file that is written for a split, empty where a folder is written.
        begins: a pattern of what a file begins with that ``write`` has made of a run.
        writes_tasks: the tasks of the runs that are written. Without one, only datasets are.
        writes_stuff: whether what is written tells stuff from things.
        needs_scores: whether a segment needs a score, which only those of a run have.
    """

    read: "Callable[[Source, Report], Dataset] | None" = None
    is_folder: bool = False
    extensions: frozenset[str] = frozenset()
    size_from: Literal["annotations", "image", "mask"] = "annotations"
    keeps_unlabeled: bool = False
    sniff_file: Callable[[FileLook], str | None] | None = None
    sniff_folder: Callable[[FolderLook], str | None] | None = None
    is_meant: Callable[[str, FolderLook | None, str | None], bool] | None = None
    stated: "Callable[[str], tuple[dict[int, list[Stated]], list[Finding]]] | None" = None
    write: "Callable[[Mapping[str, AnnotatedImages], Target], Iterator[str]] | None" = None
    suffix: str = ""
    begins: str = ""
    writes_tasks: frozenset[Task] = frozenset({"instance", "panoptic", "semantic"})
    writes_stuff: bool = True
    needs_scores: bool = False

    def written(self, splits: "Mapping[str, AnnotatedImages]", target: Target) -> Iterator[str]:
        """Writes some images, and yields lines for people."""
        assert self.write is not None, f"{self.name} is not written"
        return self.write(splits, target)


def formats() -> dict[str, Format]:
    """Returns the formats by name, in the order of their names."""
    return {name: known for name, known in all_formats().items() if isinstance(known, Format)}


def dataset_targets() -> dict[str, Format]:
    """Returns the formats that datasets are written in."""
    return {name: known for name, known in formats().items() if known.write is not None and not known.needs_scores}


def run_targets() -> dict[str, Format]:
    """Returns the formats that runs are written in."""
    return {name: known for name, known in formats().items() if known.write is not None and known.writes_tasks}


def extension_of(path: str) -> str:
    """Returns the extension of a path in lower case, without the dot."""
    return posixpath.splitext(path)[1].removeprefix(".").lower()


def _parsed(data: bytes) -> Any:
    if len(data) > PARSED:
        panoptic = b'"segments_info"' in data
        return (
            {"images": [], "annotations": [{"segments_info": []} if panoptic else {}]} if b'"images"' in data else None
        )
    text = data.decode("utf-8-sig", errors="replace")
    for attempt, wrap in ((text, False), (text.lstrip().partition("\n")[0], True)):
        try:
            found = json.loads(attempt)
            return [found] if wrap else found
        except (ValueError, RecursionError):
            continue
    return None
