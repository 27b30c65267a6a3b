"""Matches labels of a model with categories of a ground truth: by name, else by number."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from m2f_batch.errors import UsageError
from m2f_batch.models.label_sets import LABEL_SETS, find_label_set
from m2f_batch.models.label_sets import Category as Label


@dataclass(frozen=True)
class CategoryMatch:
    """``ids``: label ids to category ids, of labels that the ground truth has. ``notes``: what a user is told."""

    ids: dict[int, int]
    notes: tuple[str, ...] = ()


def match_categories(
    labels: Sequence[Label],
    named: Sequence[tuple[int, str]],
    ground_truth: str,
    annotated: Collection[int],
) -> CategoryMatch:
    """The ids of a ground truth's (id, name) pairs for labels of the same names.

    ``annotated`` are the ids that an annotation has. Of several categories
    of one name the only annotated one is meant, else the one with the label's own number, where the other names have
    theirs. Names that differ in case, blanks or underscores only are taken for the same. Names of known label sets vary
    ("sofa" is COCO's "couch"): where most names are common, all with the set's own ids, the other labels are matched by
    those. Raises UsageError where no name is common, or one may mean two categories.
    """
    notes: list[str] = []
    places = _places_by_name(named)
    chosen = _exact(labels, places, annotated, ground_truth, notes)
    chosen |= _by_near_name(labels, places, chosen, annotated, ground_truth, notes)
    if not chosen:
        theirs = f"{', '.join([*places][:5])}, ..." if places else "it has none"
        raise UsageError(
            f"none of its categories ({theirs}) has the name of a label of the model "
            f"({', '.join(label.name for label in labels[:5])}, ...)",
            field=f"--ground-truth {ground_truth}",
        )
    own = {label.id: label.dataset_id for label in labels}
    are_own = all(own[label] == number for label, number in chosen.items())
    if are_own and 2 * len(chosen) > len(named) and _are_of_known_set(labels):
        free = {number for number, _ in named} - {*chosen.values()}
        chosen |= {label: number for label, number in own.items() if label not in chosen and number in free}
    return CategoryMatch(chosen, tuple(notes))


def _are_of_known_set(labels: Sequence[Label]) -> bool:
    """Tell whether a run's labels were those of a known set, by their names and, of newer sets, by their numbers.

    Mask2Former runs know the older sets only. Their other labels are numbered from 1.
    """
    known = find_label_set({label.id: label.name for label in labels})
    numbers = tuple(label.dataset_id for label in labels)
    from_one = tuple(range(1, len(labels) + 1))
    return known is not None and (known in LABEL_SETS or from_one != numbers == known.dataset_ids)


def _places_by_name(named: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for number, name in named:
        places[name.strip()].append(number)
    return dict(places)


def _exact(
    labels: Sequence[Label],
    places: Mapping[str, Sequence[int]],
    annotated: Collection[int],
    ground_truth: str,
    notes: list[str],
) -> dict[int, int]:
    sure = [label for label in labels if len(places.get(label.name, ())) == 1]
    are_own = bool(sure) and all(places[label.name][0] == label.dataset_id for label in sure)
    found: dict[int, int] = {}
    for label in labels:
        several = places.get(label.name, ())
        if len(several) > 1:
            used = [number for number in several if number in annotated]
            is_twice_too = sum(other.name == label.name for other in labels) > 1
            own = label.dataset_id if is_twice_too or (are_own and not used) else None
            found[label.id] = _one_of(several, used, own, f"{ground_truth}: {label.name!r}")
            others = ", ".join(str(number) for number in several)
            notes.append(f"several categories are called {label.name} ({others}): taken is {found[label.id]}")
        elif several:
            found[label.id] = several[0]
    return found


def _one_of(several: Sequence[int], used: Sequence[int], own: int | None, where: str) -> int:
    """Of categories of one name the only ``used`` one, else ``own``, where it is one of them."""
    if len(used) == 1:
        return used[0]
    if own is not None and own in several:
        return own
    state = f"{len(used)} of them have annotations" if used else "none of them has an annotation"
    raise UsageError(
        f"--ground-truth {where} is the name of the categories {', '.join(map(str, several))}, and {state}: which is "
        "meant is not known; merge them, or rename all but one"
    )


def _by_near_name(
    labels: Sequence[Label],
    places: Mapping[str, Sequence[int]],
    found: Mapping[int, int],
    annotated: Collection[int],
    ground_truth: str,
    notes: list[str],
) -> dict[int, int]:
    """Labels that no name is exactly that of, by names that are nearly the same, where one fits one."""
    taken = {*found.values()}
    left = {name: ids for name, ids in places.items() if taken.isdisjoint(ids)}
    near: dict[str, list[str]] = defaultdict(list)
    for name in left:
        near[_loose(name)].append(name)
    wanting: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        if label.id not in found:
            wanting[_loose(label.name)].append(label)
    more: dict[int, int] = {}
    for key, those in wanting.items():
        if len(those) == 1 and len(near.get(key, ())) == 1:
            (label,), (name,) = those, near[key]
            used = [number for number in left[name] if number in annotated]
            more[label.id] = _one_of(left[name], used or left[name], None, f"{ground_truth}: {name!r}")
            notes.append(f"the label {label.name!r} is taken for the category {name!r}")
    return more


def _loose(name: str) -> str:
    """A name without what two people write differently.

    >>> _loose("Traffic_Light"), _loose("traffic  light")
    ('traffic light', 'traffic light')
    """
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
