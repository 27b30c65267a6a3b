"""Lists the kinds of findings of ``lint``: the effect of each on training, and what to do about it."""

from typing import NamedTuple

from m2f_batch.errors import Plain, UsageError


class Kind(NamedTuple):
    """A kind of finding.

    ``is_fault`` says whether it ruins training, or what is measured, or is a note. ``tolerated`` is the share of all
    annotations up to which it is a note, because every large dataset has some.
    """

    is_fault: bool
    effect: str
    advice: str
    tolerated: float = 0.0


_STOPS = "training stops at once with this message"
KINDS = {
    # in the files: the readers' own findings
    "malformed": Kind(True, _STOPS, "correct the entry"),
    "duplicate-image": Kind(True, f"which is meant is not known: {_STOPS}", "give every image its own id, once"),
    "duplicate-category": Kind(True, f"which is meant is not known: {_STOPS}", "give every category its own id"),
    "unknown-category": Kind(
        True,
        f"taken as it is, a class equal to the number of classes would be learned as 'no object': {_STOPS}",
        "declare the class, or shift the ids: they may count from 1 where the names count from 0",
    ),
    "unlisted-image": Kind(True, _STOPS, "list the image, or remove the annotation"),
    "mask-size": Kind(True, "masks would lie beside their objects: training stops there", "write the masks anew"),
    "invalid-mask": Kind(True, _STOPS, "draw the outline again, or remove the annotation"),
    "no-mask": Kind(True, f"a box teaches no mask: {_STOPS}", "add masks, or remove the annotation"),
    "unreadable-mask": Kind(
        True,
        _STOPS,
        "restore the file; write masks of another kind with one channel, or say with data.palette what colors are",
    ),
    "unknown-value": Kind(
        True, _STOPS, "name the class, or set data.ignore_index or data.do_reduce_labels, if that is what it means"
    ),
    "missing-segment": Kind(True, f"an object that no pixel shows: {_STOPS}", "remove the entry, or restore the mask"),
    "no-images": Kind(
        True,
        f"there is nothing to train on, or to validate with: {_STOPS}",
        "correct what is said of its images here; where nothing is, check that these are the right annotations",
    ),
    "lost-labels": Kind(
        True,
        "an image whose label file is not found is taught as background",
        "give label files the names of their images; remove those whose images are not wanted",
    ),
    "nothing-to-learn": Kind(
        True, f"there is nothing to learn: {_STOPS}", "check that these are the annotations that go along"
    ),
    # images
    "missing-image": Kind(
        True,
        "training stops when it comes to it",
        "restore the image, remove its entry, or name the folder of the images: data.train_images",
    ),
    "unreadable-image": Kind(True, "training stops when it comes to it", "restore the image, or remove its entry"),
    "image-size": Kind(
        True,
        "masks would lie beside their objects: training stops when it comes to it",
        "annotate the image that is there, or restore the one that was annotated",
    ),
    "exif-size": Kind(
        True,
        "masks would lie across their objects: training stops when it comes to it",
        "it was annotated lying on its side, and is shown upright by its EXIF orientation: turn the masks, or remove "
        "the orientation from the file",
    ),
    "exif-orientation": Kind(
        False,
        "none if the masks were drawn on the image as it is shown; drawn on the image as it is stored, they would lie "
        "beside their objects, and sizes cannot tell",
        "look at one of these images with its masks; where they do not fit, turn them, or remove the orientation from "
        "the file",
    ),
    # ids and names
    "annotation-id-zero": Kind(
        False,
        "none; in a file to measure with, pycocotools takes 0 for 'not matched', and its AP comes out too low",
        "fine for training: Label Studio counts from 0; for other tools count ids from 1",
    ),
    "duplicate-annotation-id": Kind(
        False,
        "none; in a file to measure with, pycocotools keeps one of them only, and its AP comes out wrong",
        "fine for training; for other tools give every annotation its own id",
    ),
    "duplicate-category-name": Kind(
        True,
        "two labels of the model for one thing: it learns to be unsure between them",
        "merge the categories, or rename one",
    ),
    # masks
    "empty-mask": Kind(True, "the object is not learned: it counts as background", "draw it, or remove the annotation"),
    "sliver-mask": Kind(
        True,
        "vanishes on the training canvas: the image has an object one moment, and none the next",
        "remove what is left over from drawing; for truly thin objects enlarge augment.crop_size",
        tolerated=0.01,
    ),
    "box-mismatch": Kind(
        True,
        "none if the mask is the right one of the two: only masks are learned",
        "look at the image: boxes as [x0, y0, x1, y1], masks shifted or of another object are usual",
        tolerated=0.01,
    ),
    "more-objects-than-queries": Kind(
        True,
        "a model finds at most one object per query: the others are taught as background",
        "set model.config.num_queries to the most that an image has, or cut the images into tiles",
    ),
    "duplicate-annotation": Kind(
        True, "two queries must learn one object: it comes out twice in predictions", "remove one of them"
    ),
    # images against each other
    "identical-images": Kind(True, "these images weigh more than the others", "keep one of them, with all annotations"),
    "similar-images": Kind(
        False, "these images weigh more than the others", "fine for frames of one film, if they are on one side"
    ),
    "leaked-image": Kind(
        True,
        "validation measures what was learned by heart: the best model is not the best, and figures are too good",
        "keep them on one side; frames and tiles of one source: data.group_by",
    ),
    "group-on-both-sides": Kind(
        True,
        "validation measures what was learned by heart: the best model is not the best, and figures are too good",
        "move each group to one side, as data.split with data.group_by does",
    ),
    "folder-on-both-sides": Kind(
        False,
        "if a folder is a patient, film or place, validation measures what was learned by heart",
        "data.group_by: folder keeps them on one side",
    ),
    # classes
    "class-without-example": Kind(False, "it is never learned", "drop it, or check that its ids are not off by one"),
    "class-only-in-val": Kind(
        False, "it is never learned, and validation counts it as wrong", "split anew: data.stratify"
    ),
    "smooth-mask": Kind(
        True,
        "classes are learned at borders where nobody drew them: masks were resized with interpolation",
        "write the masks anew, resized with the nearest neighbor",
    ),
    "thin-class": Kind(
        False,
        "if masks were resized with interpolation, it is a class that nobody drew",
        "fine for what is thin, such as membranes and curbs",
    ),
    "one-value": Kind(False, "there is nothing to tell apart", "look at the values that the masks hold"),
    "label-set": Kind(False, "classes are those that the note names", "fine if these are such files"),
    # said, and no harm
    "class-count": Kind(False, "the model has a class per name", "correct 'nc', or the names"),
    "four-corners": Kind(False, "masks are learned as they are drawn", "fine if the objects are so"),
    "spare-file": Kind(False, "they are left out", "fine if they are no annotations"),
    "spare-labels": Kind(False, "they are left out", "fine if their images are not wanted"),
    "mask-suffix": Kind(False, "masks are those that the note says", "data.mask_suffix takes others"),
    "names-beside": Kind(False, "the model gets these names, or none", "data.names gives others"),
    "unnamed-classes": Kind(False, "the model's labels are numbers", "name them, if people are to read them"),
    "gray-picture": Kind(False, "none", "fine; one channel is what others read"),
    "unlabelled-image": Kind(
        False,
        "all of it is taught as background; without a mask file or a JSON it is left out",
        "fine if there is nothing on it",
    ),
    "unused-category": Kind(False, "none: nothing has that class", "fine, unless its objects are missing"),
    "text-id": Kind(False, "none", "fine; give them numbers, if images are to keep their ids in exports"),
    "size-of-file": Kind(False, "none, but every image is read before it begins", "write height and width of each"),
    "dropped-part": Kind(False, "none: detectron2 leaves them out, too", "fine; most often a click too many"),
    "ignored-object": Kind(False, "their pixels are neither object nor background", "fine, if that is what they mean"),
    "spare-category": Kind(False, "none", "fine: Roboflow exports the name of a project so"),
    "crowds": Kind(
        False,
        "they are not learned: objects among them are taught as background",
        "data.crowd_as_object: true, if each is one object",
    ),
    "hidden-file": Kind(False, "they are left out", "fine, unless they are yours: rename them"),
    "other-name": Kind(False, "none", "fine; write the names as they are, if other tools read them too"),
    "near-name": Kind(False, "training stops when it comes to them", "rename the files, or correct their entries"),
    "skipped-shape": Kind(False, "shapes without area are left out", "draw them as polygons if they are objects"),
}


def ignored_kinds(text: str) -> tuple[str, ...]:
    """Returns the kinds that ``--ignore`` names. Raises UsageError for one that is not known."""
    kinds = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(
            f": not known; known are {', '.join(KINDS)}", field="--ignore", value=Plain(", ".join(unknown))
        )
    return kinds
