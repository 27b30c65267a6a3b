"""Checks the classes of a dataset, and the division of its images into splits."""

from collections import Counter
from collections.abc import Iterator

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.splits.groups import group_keys
from m2f_batch.storage import uris

_FEWEST_FOLDERS = 3  # with fewer, a folder is rather a part of a download than a source


def class_findings(train: Dataset, val: Dataset | None, place: str) -> Iterator[Finding]:
    """Yields names that come twice, classes that nothing shows, or only what is validated with."""
    yield from name_findings(train, place)
    ours, theirs = counts(train), counts(val) if val is not None else Counter[int]()
    for number, category in enumerate(train.categories):
        where = f"{place}: category {category.id} ({category.name!r})"
        if not ours[number] and theirs[number]:
            yield Finding("class-only-in-val", where, f"{theirs[number]:,} examples to validate with, none to train on")
        elif not ours[number]:
            yield Finding("class-without-example", where, "not one example")


def name_findings(dataset: Dataset, place: str) -> Iterator[Finding]:
    """Categories of one name, however it is written."""
    seen: dict[str, int] = {}
    for category in dataset.categories:
        name = " ".join(category.name.split()).casefold()
        if name in seen:
            where = f"{place}: category {category.id} ({category.name!r})"
            yield Finding("duplicate-category-name", where, f"has the name of category {seen[name]}")
        seen.setdefault(name, category.id)


def counts(dataset: Dataset) -> Counter[int]:
    """Counts the examples by category index, without crowds."""
    found: Counter[int] = Counter()
    for row in dataset.rows():
        found.update(segment["category"] for segment in row["segments"] if not segment["iscrowd"])
    return found


def group_findings(train: Dataset, val: Dataset, group_by: str | None) -> Iterator[Finding]:
    """Finds groups with images in both splits. Without ``group_by`` these are folders, where there are several."""
    names = [dataset.table["uri"].to_pylist() for dataset in (train, val)]
    keys = group_keys([*names[0], *names[1]], group_by or "folder", None, "data.group_by")
    ours, theirs = Counter(keys[: len(names[0])]), Counter(keys[len(names[0]) :])
    if group_by is None and len(ours | theirs) < _FEWEST_FOLDERS:
        return
    kind = "folder-on-both-sides" if group_by is None else "group-on-both-sides"
    for key in ours:
        if key in theirs:
            example = next(name for name, own in zip(names[1], keys[len(names[0]) :], strict=True) if own == key)
            text = f"{ours[key]:,} images to train on, {theirs[key]:,} to validate with, e.g. {uris.shown(example)}"
            yield Finding(kind, f"group {key!r}", text)
