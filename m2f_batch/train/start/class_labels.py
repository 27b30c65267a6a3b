"""Maps the categories of a dataset to the labels of a model, and takes the rows of its class head that know them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import UsageError

# the hub's 80-class COCO models spell these as mmdet does
SPELLINGS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class Labels:
    """Labels 0, 1, 2, ... of the model: ``names``, ``stuff_ids``, and that of each category, -1: not learned."""

    names: tuple[str, ...]
    stuff_ids: tuple[int, ...]
    of_category: tuple[int, ...]


def labels_of(categories: Sequence[Category], task: Task) -> Labels:
    """Return the categories that are learned, in their order. Instance segmentation learns things only.

    Raises UsageError when none is left, or two have the same name.
    """
    learned = [index for index, category in enumerate(categories) if category.isthing or task != "instance"]
    names = [categories[index].name.strip() for index in learned]
    if not names:
        others = f", only stuff ({', '.join(c.name for c in categories)})" if categories else ""
        raise UsageError(f"has no categories to learn for model.task {task!r}{others}", field="data.train")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UsageError(
            f"several categories are called {', '.join(doubled)}",
            field="data.train",
            hint="give each a name of its own",
        )
    stuff = tuple(label for label, index in enumerate(learned) if not categories[index].isthing)
    places = {index: label for label, index in enumerate(learned)}
    return Labels(tuple(names), stuff, tuple(places.get(index, -1) for index in range(len(categories))))


def known_labels(names: Sequence[str], id2label: Mapping[int, str]) -> list[int]:
    """The model's label of each name, compared stripped and without case. -1 if it is unknown or another name's."""
    known: dict[str, int] = {}
    for label, name in id2label.items():
        known.setdefault(_plain(name), label)
    return [known.pop(_plain(name), -1) for name in names]


def head_rows(tensor: Tensor, labels: Sequence[int], new: Tensor) -> Tensor:
    """A class head's rows for these labels and for no object, which is last. Where a label is -1, that of ``new``."""
    rows = new.clone()
    for row, label in enumerate([*labels, len(tensor) - 1]):
        if label >= 0:
            rows[row] = tensor[label]
    return rows


def _plain(name: str) -> str:
    plain = " ".join(name.split()).casefold()
    return SPELLINGS.get(plain, plain)
