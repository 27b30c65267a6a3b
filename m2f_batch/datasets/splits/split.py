"""Divides images into train and val: by share, seeded, stratified by class, grouped.

Pure: the same arguments give the same split on every machine (numpy's PCG64).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from m2f_batch.errors import UsageError


def split_images(
    labels: Sequence[Collection[int]],
    share: float,
    *,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    stratify: bool = False,
) -> NDArray[np.bool_]:
    """Says for each image, bool [N], whether it is in the split of ``share`` (0 to 1, exclusive), usually train.

    ``labels`` are the classes in each image, used by ``stratify``. Images of one of ``groups`` stay in one split.
    No split is empty. With groups, or stratified, the share of images is as near as these allow without a search.
    Raises UsageError where there are fewer than two images or groups.

    Stratified as Sechidis et al., On the Stratification of Multi-Label Data, 2011: the rarest class first, each of its
    images (here: groups) to the split that lacks most of it.
    """
    if not 0 < share < 1:
        raise UsageError(f"split: must be a share between 0 and 1, both exclusive; got {share}")
    keys = range(len(labels)) if groups is None else groups
    members: dict[Hashable, list[int]] = {}
    for image, key in enumerate(keys):
        members.setdefault(key, []).append(image)
    if len(members) < 2:
        what = "images" if groups is None else f"groups (all images are of {next(iter(members), None)!r})"
        raise UsageError(f"split: needs at least two {what} to put one on each side; there is {len(members)}")
    units = [*members.values()]
    order = np.random.default_rng(seed).permutation(len(units))
    units = [units[place] for place in order]
    # large groups first: small ones fill what is left
    units.sort(key=len, reverse=True)
    chosen = _stratified(units, labels, share) if stratify else _by_size(units, len(labels), share)
    _fill_empty_split(units, chosen)
    result = np.zeros(len(labels), bool)
    for unit, is_first in zip(units, chosen, strict=True):
        result[unit] = is_first
    return result


def _by_size(units: list[list[int]], images: int, share: float) -> list[bool]:
    """Gives each group to the split that lacks most images."""
    first = round(share * images)
    lacking = [first, images - first]
    chosen = []
    for unit in units:
        is_first = lacking[0] >= lacking[1]
        lacking[not is_first] -= len(unit)
        chosen.append(is_first)
    return chosen


def _stratified(units: list[list[int]], labels: Sequence[Collection[int]], share: float) -> list[bool]:
    held = [Counter(label for image in unit for label in {*labels[image]}) for unit in units]
    having: dict[int, list[int]] = {}
    for number, counts in enumerate(held):
        for label in counts:
            having.setdefault(label, []).append(number)
    totals: Counter[int] = Counter()
    for counts in held:
        totals.update(counts)
    wanted = [{label: part * total for label, total in totals.items()} for part in (share, 1 - share)]
    images = [part * len(labels) for part in (share, 1 - share)]
    chosen: dict[int, bool] = {}

    def put(number: int, is_first: bool) -> None:
        at = not is_first
        chosen[number] = is_first
        images[at] -= len(units[number])
        for label, count in held[number].items():
            wanted[at][label] -= count

    left = {label: len(numbers) for label, numbers in having.items()}
    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        for number in [number for number in having[rarest] if number not in chosen]:
            put(number, (wanted[0][rarest], images[0]) >= (wanted[1][rarest], images[1]))
            for label in held[number]:
                left[label] -= 1
        left = {label: count for label, count in left.items() if count}
    for number in range(len(units)):
        if number not in chosen:
            put(number, images[0] >= images[1])
    return [chosen[number] for number in range(len(units))]


def _fill_empty_split(units: list[list[int]], chosen: list[bool]) -> None:
    """Gives the smallest group to a split that got none."""
    if len({*chosen}) == 1:
        smallest = min(range(len(units)), key=lambda number: len(units[number]))
        chosen[smallest] = not chosen[smallest]
