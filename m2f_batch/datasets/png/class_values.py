"""Decides which class each value of semantic masks is, over all masks of a dataset at once.

Names are those that are given, else those of a file beside the masks where they fit the values, else those of a known
label set whose own file values the masks hold, else "class 0", "class 1", ...
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from m2f_batch.datasets.dataset import Category
from m2f_batch.datasets.findings import Finding, Report
from m2f_batch.datasets.names import names_beside
from m2f_batch.datasets.png.cityscapes import CITYSCAPES, LABEL_IDS, NAMES, TRAIN_IDS, VALUES
from m2f_batch.errors import UsageError
from m2f_batch.models.label_sets import find_label_set

IGNORED = -1
_SURELY_IGNORED = (255, 65535)  # as files mark it that no one has told us about


@dataclass(frozen=True)
class Scheme:
    """The ``names`` by class, and the values that are ignored beside ``ignore_index``."""

    names: dict[int, str] | None
    void: frozenset[int] = frozenset()


def scheme_of(
    values: Collection[int],
    names: dict[int, str] | None,
    where: str,
    suffix: str,
    do_reduce_labels: bool,
    ignore_index: int | None,
    report: Report,
) -> Scheme:
    """Decides what the ``values`` of all masks mean. ``where`` is their folder, ``suffix`` the ending of their names.

    Names are by class, after ``do_reduce_labels``. Raises UsageError for names that are none.
    """
    void = {ignore_index, *([0] if do_reduce_labels else [])}
    if names is None:
        beside = names_beside(where)
        if beside is not None and {value - do_reduce_labels for value in values if value not in void} <= {*beside[1]}:
            names = beside[1]
            report(Finding("names-beside", where, f"the names of {len(names):,} classes are those of {beside[0]}"))
        elif beside is not None:
            text = f"{beside[0]} has no name for some values of the masks and is not used; data.names takes it anyway"
            report(Finding("names-beside", where, text))
    if not do_reduce_labels and _is_cityscapes(names):
        kind = _cityscapes_kind(values, names, suffix)
        if kind is not None:
            numbers = CITYSCAPES.dataset_ids if kind == LABEL_IDS else range(CITYSCAPES.size)
            own = [*(names or dict(enumerate(NAMES))).values()]
            text = f"values are Cityscapes' {kind}: its {CITYSCAPES.size} classes are learned, its other values ignored"
            report(Finding("label-set", where, text))
            return Scheme(dict(zip(numbers, own, strict=True)), VALUES - {*numbers})
    if names is None:
        return Scheme(None)
    left = {number: name for number, name in names.items() if number != -1 and number + do_reduce_labels not in void}
    if not left or min(left) < 0:
        raise UsageError("names of classes need ids of 0 or more", field="data.names")
    if not do_reduce_labels and _is_ade20k(left):
        text = "the names are ADE20K's, whose own files hold 0 for no label and class ids + 1: "
        text += f"as it is, 0 is read as {left[0]!r}; for such files set data.do_reduce_labels"
        report(Finding("label-set", where, text))
    return Scheme(left)


def value_finding(
    classes: Collection[int], where: str, do_reduce_labels: bool, names: Mapping[int, str] | None, hint: str = ""
) -> Finding | None:
    """Finds values that no class has, or, without names, one that surely means "ignored".

    ``hint`` is what all masks tell.
    """
    if names is not None:
        unknown = sorted(number + do_reduce_labels for number in {*classes} - names.keys() - {IGNORED})
        if unknown:
            text = (
                f"has pixels of {unknown[:5]}, and the {len(names)} named classes are {min(names) + do_reduce_labels} "
                f"to {max(names) + do_reduce_labels}; "
            )
            known = "data.ignore_index makes one value ignored, data.do_reduce_labels the value 0"
            if _is_ade20k(names) and unknown == [150] and not do_reduce_labels:
                known = "these are ADE20K's own file values, class ids + 1: set data.do_reduce_labels"
            return Finding("unknown-value", where, text + (hint or known))
        return None
    marks = sorted({*classes} & {value - do_reduce_labels for value in _SURELY_IGNORED})
    if marks:
        value = marks[0] + do_reduce_labels
        text = f"has pixels of {value}, "
        text += hint or f"most often no class: set data.ignore_index to {value}, or name all classes"
        return Finding("unknown-value", where, text)
    return None


def hint_of(values: Collection[int], names: Mapping[int, str] | None) -> str:
    """Guesses what a user has in hand whose masks hold these values, "" where nothing tells.

    >>> hint_of({0, 85, 170, 255}, None)
    'and all masks only 0 to 3 stretched over 0 to 255, as for the screen; write the class ids themselves'
    """
    if {*values} == {0, 255}:
        named = "{0: background, 255: object}"
        return (
            "and all masks hold 0 and 255 only: if 255 is a class, name it, as in "
            f"data.names='{named}'; if it counts for nothing, set data.ignore_index to 255"
        )
    for most in {len(names or ()) - 1, len(values) - 1}:
        stretched = {round(255 * number / most) for number in range(most + 1)} if 2 <= most <= 127 else set()
        if len(values) > 2 and 255 in values and {*values} <= stretched:
            return (
                f"and all masks only 0 to {most} stretched over 0 to 255, as for the screen; "
                "write the class ids themselves"
            )
    return ""


def are_unnamed(categories: Sequence[Category]) -> bool:
    """Says whether these are classes of PNGs that nobody has named."""
    return all(category.name == f"class {category.id}" for category in categories)


def _is_ade20k(names: Mapping[int, str]) -> bool:
    known = find_label_set(names)
    return known is not None and known.name == "ADE20K"


def _is_cityscapes(names: Mapping[int, str] | None) -> bool:
    if names is None or find_label_set(names) is CITYSCAPES:
        return True
    return (*names,) == CITYSCAPES.dataset_ids and (*names.values(),) == NAMES


def _cityscapes_kind(values: Collection[int], names: Mapping[int, str] | None, suffix: str) -> str | None:
    """Tells which of Cityscapes' numbers the values are, by the masks' names or the values themselves, or None."""
    learned = {*range(CITYSCAPES.size)}
    if suffix.endswith(TRAIN_IDS) and {*values} <= learned | {255}:
        return TRAIN_IDS
    is_named = suffix.endswith(f"_{LABEL_IDS}") or (names is not None and not {*values} <= learned | {255})
    return LABEL_IDS if is_named and {*values} <= VALUES else None
