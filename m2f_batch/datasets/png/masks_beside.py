"""Folders of mask PNGs beside images: which mask is whose, for the formats that have no file saying so."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding, Report, examples
from m2f_batch.datasets.png.cityscapes import CLASS_MASKS, IMAGE_ENDING
from m2f_batch.errors import UsageError
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.near import plain, without_marks
from m2f_batch.storage import uris

_MASKS = ("png", "tif", "tiff")  # formats without loss, PNG first
_SEPARATORS = "_-. "
_TASK = re.compile(r"task-\d+-annotation-\d+")  # Label Studio's brush PNGs


@dataclass(frozen=True)
class Beside:
    """The masks beside images.

    ``file`` is ``annotations`` if that is no folder. ``folder`` holds the masks, and ``suffix`` ends their names.
    """

    file: str | None
    folder: str
    suffix: str
    pairs: list[tuple[str, str]]  # (image, mask) uris, by image


def pairs(
    place: str,
    images: str | None,
    masks: str | None,
    suffix: str | None,
    report: Report,
    usual: Sequence[str] = CLASS_MASKS,
) -> Beside:
    """Images and masks, matched by path without extension, and without ``suffix`` (``data.mask_suffix``) of the masks.

    Where no ``suffix`` is given and no mask has an image's name, it is the first of ``usual`` that Cityscapes' masks
    have, else what all masks have in common.

    ``place`` is a file beside ``masks``, or itself the folder of the masks. Without ``images``, they lie among
    the masks, as anything but PNG, or as those without the suffix. A mask without an image is a finding, images without
    a mask are left out aloud.
    """
    is_folder = files.is_folder(place, "data.train")
    if masks is None and not is_folder:
        raise UsageError("is no folder of masks", field="data.train_masks", value=place, hint="give that folder")
    folder = files.folder_of(masks or place, "data.train_masks")
    place_of_images = folder if images is None else files.folder_of(images, "data.train_images")
    found, kinds = _list_masks(folder, report)
    if place_of_images != folder:
        pictures = files.list_images(place_of_images, report)
    else:
        pictures = files.list_files(folder, IMAGE_EXTENSIONS.difference(kinds), report)
        if not pictures:
            found, pictures, suffix = _apart(found, suffix, folder, report)
    suffix = _usual_suffix(found, pictures, usual, folder, report) if suffix is None else suffix
    ending, found = _by_suffix(found, suffix, folder)
    matched = _matched(pictures, found, ending, folder, report)
    taken = {mask for _, mask in matched}
    of_objects = None if matched else _one_of_single_objects(found, pictures)
    if of_objects is not None:
        text = f"its masks are of single objects, several an image (e.g. {of_objects}): a mask PNG holds all "
        text += "of an image; write these as COCO, or paint the objects of an image into one PNG, each in its number"
        report(Finding("missing-image", folder, text))
    for stem in sorted(found) if of_objects is None else ():
        if found[stem] not in taken:
            text = "has no image of its name; data.train_images names the folder of the images, data.mask_suffix "
            text += "what the masks' names end with beside those of the images"
            report(Finding("missing-image", found[stem], text))
    alone = sorted(pictures.keys() - {stem for stem, _ in matched})
    if alone:
        text = f"{len(alone):,} of {len(pictures):,} images have no mask and are left out ({examples(alone)})"
        report(Finding("unlabelled-image", folder, text))
    both = sorted((pictures[stem], mask) for stem, mask in matched)
    return Beside(None if is_folder else place, folder, ending, both)


def _one_of_single_objects(found: Mapping[str, str], pictures: Mapping[str, str]) -> str | None:
    """Finds one of several masks of an image, as Label Studio, Open Images and the Data Science Bowl have them."""
    bases = {posixpath.basename(stem) for stem in pictures}
    several: dict[str, list[str]] = {}
    for stem, uri in found.items():
        base, folder = posixpath.basename(stem), posixpath.dirname(stem)
        if posixpath.basename(folder) == "images":  # beside the folder of its masks
            continue
        starts = [base[:at] for at, letter in enumerate(base) if letter in _SEPARATORS and base[:at] in bases]
        task = _TASK.match(base)
        owner = task[0] if task else starts[0] if starts else folder if posixpath.basename(folder) == "masks" else None
        several.setdefault(owner or "", []).append(uri)
    if "" in several or max(map(len, several.values()), default=0) < 2:
        return None
    return max(several.values(), key=len)[0]


def _list_masks(folder: str, report: Report) -> tuple[dict[str, str], Sequence[str]]:
    """Returns the masks by path without extension, and the extensions of their kind."""
    for kinds in (_MASKS[:1], _MASKS[1:]):
        found = files.list_files(folder, kinds, report)
        if found:
            return found, kinds
    others = Counter(posixpath.splitext(name)[1].lower() for name in files.list_images(folder).values())
    listed = ", ".join(f"{count:,} {extension}" for extension, count in others.most_common())
    why = f"; it has {listed}" if others else ""
    if others.keys() & {".jpg", ".jpeg", ".jfif"}:
        why += ": JPEG is lossy and makes values that nobody drew, so masks are never read from it; export PNGs"
    else:
        why += "; masks are read from PNGs and TIFFs: write them as such"
    raise UsageError(f"has no PNG{why}", field="data.train_masks", value=folder)


def _apart(
    found: dict[str, str], suffix: str | None, folder: str, report: Report
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Masks, images and the ending of the masks' names, where both are of one kind in one folder."""
    if suffix is None:
        endings = Counter(
            stem[at:] for stem in found for at in range(len(stem)) if stem[at] in _SEPARATORS and stem[:at] in found
        )
        if not endings:
            return found, {}, None
        suffix = endings.most_common(1)[0][0]
        report(Finding("mask-suffix", folder, _by_ending(suffix)))
    masks = {stem: uri for stem, uri in found.items() if suffix and stem.endswith(suffix)}
    return masks or found, {stem: uri for stem, uri in found.items() if masks and stem not in masks}, suffix


def _by_ending(suffix: str) -> str:
    return f"masks are taken by the ending {suffix!r} of their names, as data.mask_suffix would"


def _by_suffix(found: dict[str, str], suffix: str, folder: str) -> tuple[str, dict[str, str]]:
    """The ending of the masks' names that the images' have not, and the masks by path without it."""
    if not suffix:
        return "", found
    chosen = {stem.removesuffix(suffix): mask for stem, mask in found.items() if stem.endswith(suffix)}
    if not chosen:
        raise UsageError(
            f"ends the name of none of {len(found):,} masks in {folder!r} ({examples(sorted(found))})",
            field="data.mask_suffix",
            value=suffix,
        )
    return suffix, chosen


def _usual_suffix(
    found: Mapping[str, str], pictures: Mapping[str, str], usual: Sequence[str], folder: str, report: Report
) -> str:
    """Finds and reports the ending that makes images' names of those of the masks, where no mask has one."""
    if found.keys() & pictures.keys():
        return ""
    of_cityscapes = any(stem.endswith(IMAGE_ENDING) for stem in pictures)
    ours, theirs = common_ending(found), common_ending(pictures)
    wanted = {stem.removesuffix(theirs) for stem in pictures}
    suffix = ours if {stem.removesuffix(ours) for stem in found} <= wanted else ""
    known = (ending for ending in usual if of_cityscapes and any(stem.endswith(ending) for stem in found))
    suffix = next(known, suffix)
    if suffix:
        others = sum(not stem.endswith(suffix) for stem in found)
        report(
            Finding(
                "mask-suffix", folder, _by_ending(suffix) + (f"; {others:,} other PNGs are left out" if others else "")
            )
        )
    return suffix


def common_ending(stems: Iterable[str]) -> str:
    """The longest ending of all of several names that begins with a separator.

    >>> common_ending(["a/1_sat", "a/2_sat"]), common_ending(["1_sat"])
    ('_sat', '')
    """
    several = sorted(posixpath.basename(stem)[::-1] for stem in stems)
    if len(several) < 2:
        return ""
    first, last = several[0], several[-1]  # what these two share, all between them do
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    shared = first[: min(length, len(first), len(last))][::-1]
    starts = [shared.find(separator) for separator in "_-." if separator in shared]
    return shared[min(starts) :] if starts else ""


def _matched(
    pictures: Mapping[str, str], found: Mapping[str, str], ending: str, folder: str, report: Report
) -> list[tuple[str, str]]:
    """Pairs the stems of images with their masks. Other spellings of names are reported once."""
    matched = [(stem, found[stem]) for stem in pictures if stem in found]
    left = {stem: stem for stem in pictures if stem not in found}
    if ending and left:
        theirs = IMAGE_ENDING if all(stem.endswith(IMAGE_ENDING) for stem in left) else common_ending(left)
        cut = {stem: stem.removesuffix(theirs) for stem in left}
        matched += [(stem, found[short]) for stem, short in cut.items() if short in found]
        left = {stem: short for stem, short in cut.items() if short not in found}
    taken = {mask for _, mask in matched}
    others = {stem: mask for stem, mask in found.items() if mask not in taken}
    spelled = alike(left.values(), others)
    if spelled:
        example = next(iter(spelled.items()))
        text = f"{len(spelled):,} masks go with an image whose name is spelled otherwise ({example[0]}: {example[1]})"
        report(Finding("other-name", folder, text))
    matched += [(stem, others[spelled[short]]) for stem, short in left.items() if short in spelled]
    return matched or _by_beginnings(pictures, found, folder, report)


def _by_beginnings(
    pictures: Mapping[str, str], found: Mapping[str, str], folder: str, report: Report
) -> list[tuple[str, str]]:
    """Returns images and masks whose names differ in what all of one side begin with: ``image_7`` and ``mask_7``."""
    theirs, ours = (_without_beginning(several) for several in (pictures, found))
    matched = [(stem, found[ours[rest]]) for rest, stem in theirs.items() if rest in ours]
    if len(matched) < max(len(found), 2):  # each mask has its image, or this is no rule
        return []
    (stem, mask), count = matched[0], len(matched)
    text = f"{count:,} masks go with the images whose names begin otherwise ({stem}: {uris.below(folder, mask)})"
    report(Finding("other-name", folder, text))
    return matched


def _without_beginning(stems: Iterable[str]) -> dict[str, str]:
    """Names without what all of them begin with but digits, and these names.

    >>> _without_beginning(["a/mask_10", "a/mask_11"])
    {'a/10': 'a/mask_10', 'a/11': 'a/mask_11'}
    """
    several = [posixpath.split(stem) for stem in stems]
    length = len(posixpath.commonprefix([base for _, base in several]).rstrip("0123456789"))
    return {posixpath.join(folder, base[length:]): posixpath.join(folder, base) for folder, base in several}


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Finds which of ``others`` a name means that none of them is: the one of the same letters.

    Tried are, one after the other, another Unicode form and percent-encoding, another case, and on one side the prefix
    of Label Studio, the ending of Roboflow or the extension of an image; a reading counts only where it names one of
    each.

    >>> alike(["a1b2c3d4-street2"], ["street2", "street3"])
    {'a1b2c3d4-street2': 'street2'}
    """
    left, right = sorted({*names}), sorted({*others})
    found: dict[str, str] = {}
    for reading in (plain, _folded, _bare):
        ours, theirs = (_by_reading(several, reading) for several in (left, right))
        for key, several in ours.items():
            if len(several) == 1 and len(theirs.get(key, ())) == 1:
                found[several[0]] = theirs[key][0]
        left = [name for name in left if name not in found]
        right = [name for name in right if name not in {*found.values()}]
    return found


def _by_reading(names: Iterable[str], reading: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(reading(name), []).append(name)
    return found


def _folded(name: str) -> str:
    return plain(name).casefold()


def _bare(name: str) -> str:
    stem, extension = posixpath.splitext(plain(name))
    return without_marks(stem if extension.removeprefix(".").lower() in IMAGE_EXTENSIONS else plain(name))
