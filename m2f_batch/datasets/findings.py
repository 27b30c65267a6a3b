"""Defines findings: what is wrong with a dataset, one at a time. A reader stops at the first, a check collects all.

Every reader hands its findings to a ``Report`` and goes on without what it complained about, if the report returns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import note
from m2f_batch.storage import uris


@dataclass(frozen=True)
class Finding:
    """``kind`` is one of KINDS or NOTES, ``where`` file and entry, ``text`` what is wrong and what to do.

    ``image``: the uri, or the id in the dataset, of the image that has it, where it is of one.
    """

    kind: str
    where: str
    text: str
    image: str | int | None = None

    def __str__(self) -> str:
        return uris.shown(f"{self.where}: {self.text}")  # names of files and classes may hold line breaks


Report = Callable[[Finding], None]

# faults that no model should be trained with
KINDS = {
    "malformed": "an entry without the fields that its format asks for",
    "duplicate-image": "two entries for one image",
    "duplicate-category": "two categories with one id",
    "unknown-category": "a class that the dataset does not declare: off by one, most often",
    "unlisted-image": "an annotation of an image that is not listed",
    "mask-size": "a mask of another size than its image",
    "invalid-mask": "a polygon or RLE that describes no mask",
    "no-mask": "a box without a mask",
    "unreadable-mask": "a mask file that is missing or cannot be read",
    "unknown-value": "a pixel value that no class or segment has",
    "missing-segment": "a segment without a pixel of its own",
    "missing-image": "a mask without its image, or an image that cannot be read where its size is needed",
    "lost-labels": "label files that go with no image, beside images without one",
    "nothing-to-learn": "not one object or pixel that training would see",
    "no-images": "not one image that could be read with its annotations",
}
# notes, which do not stop a reader
NOTES = {
    "annotation-id": "annotation ids that are 0 or come twice; not used here, but they break pycocotools",
    "box-mismatch": "boxes or areas that contradict their masks; not used here, but the masks may be the wrong ones",
    "unlabelled-image": "images without a label file, mask or JSON",
    "skipped-shape": "shapes that have no area",
    "text-id": "ids of images that are texts",
    "size-of-file": "images whose height and width are not in the annotations",
    "dropped-part": "parts of masks that have no area",
    "ignored-object": "annotations that another tool leaves out: their pixels count for nothing",
    "spare-category": "categories without an annotation that have the name of one with some",
    "crowds": "masks of many objects, which are neither learned nor counted as one, where they are more than a few",
    "hidden-file": "files with a hidden name, or in a hidden folder",
    "other-name": "names of files that are not there as written, but otherwise",
    "near-name": "names of files that are not there, where something like them is",
    "unused-category": "categories of data.val that data.train lacks, and that nothing shows",
    "class-count": "a number of classes that is not that of the names",
    "four-corners": "outlines of four corners and no others",
    "spare-file": "files among annotations that are none",
    "spare-labels": "label files that go with no image",
    "mask-suffix": "masks whose names end otherwise than those of their images",
    "names-beside": "a file beside the masks that names their classes",
    "unnamed-classes": "classes of masks that nobody has named",
    "label-set": "numbers of a known label set",
    "gray-picture": "masks of three equal channels",
    "one-value": "masks in which one value is all there is",
    "smooth-mask": "classes that smooth resizing has made",
    "thin-class": "classes that are nothing but lines between two others",
}


def stop(finding: Finding) -> None:
    """Reports strictly: hands on a note, and raises UsageError for anything else."""
    if finding.kind not in NOTES:
        raise UsageError(str(finding))
    note(f"note: {finding}")


@contextmanager
def near_names_last(report: Report) -> Iterator[Report]:
    """Gives a report that hands on near names at the end, and never where an error ends it, which says enough."""
    held: list[Finding] = []
    yield lambda finding: held.append(finding) if finding.kind == "near-name" else report(finding)
    for finding in held:
        report(finding)


def examples(items: list[str], most: int = 3) -> str:
    """Returns a few of many for a message.

    >>> examples(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
