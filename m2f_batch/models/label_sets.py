"""Knows the label sets of COCO, ADE20K, Cityscapes, Mapillary Vistas and Pascal: category ids, stuff, and a few names.

Nothing in a checkpoint's config.json says which labels are stuff, nor which ids its dataset uses. The published label
sets are recognized by their size and a few names. Source: detectron2's and mmsegmentation's dataset metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class LabelSet:
    """A published label set. ``marks`` are (label id, name) pairs that identify it among sets of its size."""

    name: str
    size: int
    marks: tuple[tuple[int, str], ...]
    stuff_ids: frozenset[int]
    dataset_ids: tuple[int, ...]


@dataclass(frozen=True)
class Category:
    """One label of a model. ``dataset_id`` is the id in the label set's own annotation files."""

    id: int
    name: str
    isthing: bool
    dataset_id: int


StuffSource = Literal["config", "checkpoint", "label set", "none"]


def _ids(text: str) -> tuple[int, ...]:
    """Numbers and inclusive ranges: "1-3,7" is (1, 2, 3, 7)."""
    ids: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ids.extend(range(int(first), int(last or first) + 1))
    return tuple(ids)


_COCO_THINGS = _ids("1-11,13-25,27-28,31-44,46-65,67,70,72-82,84-90")
_COCO_STUFF = _ids(
    "92-93,95,100,107,109,112,118-119,122,125,128,130,133,138,141,144-145,147-149,151,154-156,159,161,166,168,171,"
    "175-178,180-181,184-200"
)
_ADE20K_STUFF = _ids(
    "0-6,9,11,13,16-17,21,25-26,28-29,34,40,46,48,51-52,54,59-61,63,68,77,79,84,91,94,96,99-101,105-106,109,113-114,"
    "117,122,128,131,140-141,145"
)

LABEL_SETS = (
    LabelSet(
        "COCO panoptic",
        133,
        ((0, "person"), (80, "banner"), (132, "rug-merged")),
        frozenset(range(80, 133)),
        _COCO_THINGS + _COCO_STUFF,
    ),
    LabelSet("COCO instance", 80, ((0, "person"), (79, "toothbrush")), frozenset(), _COCO_THINGS),
    LabelSet(
        "Cityscapes",
        19,
        ((0, "road"), (18, "bicycle")),
        frozenset(range(11)),
        _ids("7,8,11,12,13,17,19-28,31-33"),
    ),
    LabelSet("Cityscapes instance", 8, ((0, "person"), (7, "bicycle")), frozenset(), _ids("24-28,31-33")),
    LabelSet("ADE20K", 150, ((0, "wall"), (149, "flag")), frozenset(_ADE20K_STUFF), _ids("1-150")),
    LabelSet(
        "Mapillary Vistas",
        65,
        ((0, "Bird"), (64, "Ego Vehicle")),
        frozenset(_ids("2-7,9-18,24-31,43,58,63-64")),
        _ids("1-65"),
    ),
)


# those of other architectures than Mask2Former, whose runs of older releases did not know them
MORE_LABEL_SETS = (
    # RF-DETR's labels are the ids of COCO, also those that name no class ("N/A" here)
    LabelSet("COCO instance by id", 91, ((1, "person"), (90, "toothbrush")), frozenset(), _ids("0-90")),
    LabelSet(
        "COCO-Stuff",
        171,
        ((0, "person"), (80, "banner"), (170, "wood")),
        frozenset(range(80, 171)),
        _COCO_THINGS + _ids("92-182"),
    ),
    LabelSet("Pascal VOC", 21, ((0, "background"), (1, "aeroplane"), (15, "person")), frozenset({0}), _ids("0-20")),
    LabelSet("Pascal Context", 59, ((0, "aeroplane"), (1, "bag"), (58, "wood")), frozenset(), _ids("1-59")),
    LabelSet(
        "Pascal Context with background",
        60,
        ((0, "background"), (1, "aeroplane"), (59, "wood")),
        frozenset({0}),
        _ids("0-59"),
    ),
)
ALL_LABEL_SETS = LABEL_SETS + MORE_LABEL_SETS


def names_of(label_set: str) -> dict[int, str]:
    """Return the names of a published label set by label id, of those sets that ``label_names.json`` holds."""
    names = json.loads((Path(__file__).parent / "published" / "label_names.json").read_text(encoding="utf-8"))
    return dict(enumerate(names[label_set].split(", ")))


def are_numbers(id2label: Mapping[int, str]) -> bool:
    """Tell whether the names are those that transformers gives to labels without any: LABEL_0, LABEL_1, ..."""
    return all(name == f"LABEL_{i}" for i, name in id2label.items())


def assumed_set(id2label: Mapping[int, str], published: Mapping[str, str], names: Sequence[str]) -> str | None:
    """Return the label set of labels without names, where one of the model's ``names`` is that of published weights.

    Nothing else tells it: 19, 21 or 80 labels of anybody are not those of Cityscapes, Pascal or COCO. ``published`` are
    label sets by patterns of hub ids, whose case does not count on the hub.
    """
    if not are_numbers(id2label):
        return None
    folded = [name.casefold() for name in names]
    for pattern, label_set in published.items():
        is_named = any(fnmatchcase(name, pattern.casefold()) for name in folded)
        if is_named and len(names_of(label_set)) == len(id2label):
            return label_set
    return None


def find_label_set(id2label: Mapping[int, str], among: Sequence[LabelSet] = ALL_LABEL_SETS) -> LabelSet | None:
    """Return the published label set with these names, if it is one. Names are compared stripped."""
    for known in among:
        if len(id2label) == known.size and all(id2label.get(i, "").strip() == name for i, name in known.marks):
            return known
    return None


def label_set_of(config: Mapping[str, Any]) -> LabelSet | None:
    """Return the published label set of a checked config.json, if it is one."""
    return find_label_set({int(i): str(name) for i, name in config["id2label"].items()})


def find_stuff_ids(
    configured: frozenset[int] | None, in_checkpoint: frozenset[int] | None, label_set: LabelSet | None
) -> tuple[frozenset[int], StuffSource]:
    """Return the label ids that are stuff, and who says so: the config, the checkpoint, the label set, or nobody."""
    if configured is not None:
        return configured, "config"
    if in_checkpoint is not None:
        return in_checkpoint, "checkpoint"
    if label_set is not None:
        return label_set.stuff_ids, "label set"
    return frozenset(), "none"


def categories_of(
    id2label: Mapping[int, str], stuff_ids: frozenset[int], label_set: LabelSet | None
) -> tuple[Category, ...]:
    """Return all labels by id. Outside the known label sets the dataset id is the label id + 1."""
    dataset_ids = label_set.dataset_ids if label_set else None
    return tuple(
        Category(i, id2label[i].strip(), i not in stuff_ids, dataset_ids[i] if dataset_ids else i + 1)
        for i in sorted(id2label)
    )


def label_lines(labels: Any, known: int | None) -> str:
    """Return the lines ``id2label`` and ``label2id`` for a config.json whose ``labels`` are not 0, 1, 2, ...

    ``known`` is how many labels the weights know, if that can be had. Ids that begin with 1 move down by one where
    there are as many names as labels; with one name less, label 0 has no name of its own. Names that nobody knows are
    left to be filled in.
    """
    names = _by_id(labels)
    if names and min(names) == 1 and sorted(names) == list(range(1, len(names) + 1)) and known in (None, len(names)):
        names = {i - 1: name for i, name in names.items()}
    count = known or max(names, default=-1) + 1
    settled = {str(i): names.get(i, f"NAME OF LABEL {i}") for i in range(count)}
    ids = {name: int(i) for i, name in settled.items()}
    return f'  "id2label": {json.dumps(settled)},\n  "label2id": {json.dumps(ids)}'


def _by_id(labels: Any) -> dict[int, str]:
    """Return names by whole number, as far as there are any."""
    pairs = labels.items() if isinstance(labels, dict) else enumerate(labels) if isinstance(labels, list) else ()
    return {int(i): name for i, name in pairs if str(i).isdecimal() and len(str(i)) < 6 and isinstance(name, str)}
