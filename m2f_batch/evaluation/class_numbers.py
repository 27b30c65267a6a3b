"""Reads class PNGs whose numbers are not the label ids of the model where that is certain, else refuses them.

Without a file of names a pixel's value is taken for a label id. Label sets number their own files otherwise: ADE20K
writes label id + 1 and 0 for no label, Cityscapes its ``labelIds``. A run is then measured against other classes than
its own, and comes out at 0.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.masks import union_rle
from m2f_batch.datasets.png.class_values import are_unnamed
from m2f_batch.errors import UsageError
from m2f_batch.evaluation.evaluator import Evaluator
from m2f_batch.evaluation.metrics.values import mean_of
from m2f_batch.models.label_sets import Category as Label
from m2f_batch.models.label_sets import find_label_set

# values of a label set's own PNGs that are no class
_NO_CLASS = {
    "ADE20K": frozenset({0}),
    "Cityscapes": frozenset(range(34)),
    "Cityscapes instance": frozenset(range(34)),
    "COCO panoptic": frozenset({0}),
    "COCO instance": frozenset({0}),
}
_CLEARLY = (2.0, 0.05)  # another reading fits, if its mIoU is above so many times ours, and so much


def in_label_ids(labels: Sequence[Label], dataset: Dataset, *, are_reduced: bool) -> tuple[Dataset, list[str]]:
    """``dataset`` with the label ids and names of the model, where its values can only be a known set's own.

    That is so where some are no label ids and all are the set's. Also returns what a user is told of
    it.
    """
    known = find_label_set({label.id: label.name for label in labels})
    if known is None or known.name not in _NO_CLASS or are_reduced or not are_unnamed(dataset.categories):
        return dataset, []
    there = {dataset.categories[place].id for place in _present(dataset)}
    allowed = {*known.dataset_ids, *_NO_CLASS[known.name]}
    if not there - {*range(known.size)} or not there <= allowed:
        return dataset, []
    label_of = {number: label for label, number in enumerate(known.dataset_ids)}
    names = {label.id: label.name for label in labels}
    categories = [Category(label, names[label], False) for label in range(known.size)]
    rows = (_renumbered(row, dataset.categories, label_of) for row in dataset.rows())
    said = f"the PNGs hold {_of(known.name)} own file values ({max(there)} is no label id): read as such"
    return dataset_of(categories, rows), [said]


def _present(dataset: Dataset) -> set[int]:
    return {segment["category"] for row in dataset.rows() for segment in row["segments"]}


def _renumbered(row: dict[str, Any], categories: Sequence[Category], label_of: Mapping[int, int]) -> dict[str, Any]:
    numbers = [label_of.get(categories[segment["category"]].id) for segment in row["segments"]]
    pairs = [*zip(row["segments"], numbers, strict=True)]
    void = [segment["counts"] for segment, number in pairs if number is None]
    void += [row["ignored"]] if row["ignored"] is not None else []
    segments = [segment | {"category": number} for segment, number in pairs if number is not None]
    ignored = union_rle(void, (row["height"], row["width"])) if void else None
    return row | {"segments": segments, "ignored": ignored}


@dataclass
class OtherReading:
    """Another reading of the values of PNGs: ``void`` are no class then, and ``advice`` says what to do."""

    evaluator: Evaluator
    void: Collection[int]
    advice: str

    def mean_iou(self) -> float:
        """Over the classes that the truth holds, 0 where there are none."""
        sums = self.evaluator.parts["regions"].whole
        is_class = [category.id not in self.void for category in self.evaluator.categories]
        return mean_of(sums.iou()[(sums.true > 0) & is_class]) or 0.0


def other_readings(
    labels: Sequence[Label], categories: Sequence[Category], *, are_reduced: bool
) -> Iterator[OtherReading]:
    """Yield readings of unnamed classes beside the one as label ids. Named classes have none."""
    if not are_unnamed(categories):
        return
    places = {category.id: place for place, category in enumerate(categories)}
    known = find_label_set({label.id: label.name for label in labels})
    ids = [label.id for label in labels]
    shifts = {number: number + (-1 if are_reduced else 1) for number in ids}
    own = {} if known is None or are_reduced else dict(zip(ids, known.dataset_ids, strict=True))
    source = f"these are {_of(known.name)} own file values: " if known and known.name in _NO_CLASS else ""
    flag = f"{source * (own == shifts)}{'leave out' if are_reduced else 'give'} --do-reduce-labels"
    wanted: list[tuple[dict[int, int], Collection[int], str]] = [(shifts, () if are_reduced else {0}, flag)]
    if known and source and own and own != shifts:
        text = f"{source}give a file with their names as --ground-truth, and the folder as --masks"
        wanted.append((own, _NO_CLASS[known.name] - {*own.values()}, text))
    for numbers, void, text in wanted:
        category_of = {label: places[number] for label, number in numbers.items() if number in places}
        if category_of:
            yield OtherReading(Evaluator(categories, "semantic", category_of, frozenset({"miou"})), void, text)


def _of(name: str) -> str:
    """The possessive of a label set's name."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def check_numbers(evaluator: Evaluator, others: Sequence[OtherReading], ground_truth: str) -> None:
    """Raises UsageError where another reading of the numbers fits what was found far better."""
    ours = evaluator.summary()["metrics"].get("mIoU") or 0.0
    for other in sorted(others, key=lambda other: -other.mean_iou())[:1]:
        theirs = other.mean_iou()
        if theirs > _CLEARLY[0] * ours + _CLEARLY[1]:
            raise UsageError(
                f": taken for label ids, its values give an mIoU of {ours:.3f}, and read otherwise "
                f"{theirs:.3f}: {other.advice}; if they are label ids, name the classes by a file of "
                "names as --ground-truth, with the folder as --masks",
                field="--ground-truth",
                value=ground_truth,
            )
