"""Label sets against the table of detectron2's metadata, and who decides what is stuff."""

import json
from pathlib import Path

import pytest

from m2f_batch.config.segment import AspectSize
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.label_sets import LABEL_SETS, LabelSet, categories_of, find_label_set, find_stuff_ids
from m2f_batch.models.processor import plan_from_processor

PLAN = plan_from_processor({})
SETS = {known.name: known for known in LABEL_SETS}
# labels, stuff labels, lowest and highest dataset id
COUNTS = {
    "COCO panoptic": (133, 53, 1, 200),
    "COCO instance": (80, 0, 1, 90),
    "Cityscapes": (19, 11, 7, 33),
    "Cityscapes instance": (8, 0, 24, 33),
    "ADE20K": (150, 50, 1, 150),
    "Mapillary Vistas": (65, 28, 1, 65),
}


def names_of(name: str) -> dict[int, str]:
    """Names that a checkpoint of this label set could have: the marks, and fillers."""
    known = SETS[name]
    return {i: f"filler {i}" for i in range(known.size)} | dict(known.marks)


def test_counts_of_the_table() -> None:
    found = {
        name: (known.size, len(known.stuff_ids), min(known.dataset_ids), max(known.dataset_ids))
        for name, known in SETS.items()
    }
    assert found == COUNTS
    for known in LABEL_SETS:
        assert len(known.dataset_ids) == len(set(known.dataset_ids)) == known.size, known.name
        assert known.stuff_ids <= set(range(known.size)), known.name


def test_single_entries_of_the_table() -> None:
    coco = SETS["COCO panoptic"]
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids that COCO's 80 things leave out of 1 to 90
    assert set(coco.dataset_ids[:80]) == set(range(1, 91)) - gaps
    assert coco.dataset_ids[:80] == SETS["COCO instance"].dataset_ids
    assert (coco.dataset_ids[80], coco.dataset_ids[132]) == (92, 200)
    assert sum(i > 90 for i in coco.dataset_ids) == 53 and coco.stuff_ids == set(range(80, 133))
    assert (
        SETS["Cityscapes"].dataset_ids[11:]
        == SETS["Cityscapes instance"].dataset_ids
        == (24, 25, 26, 27, 28, 31, 32, 33)
    )
    assert SETS["ADE20K"].dataset_ids == tuple(range(1, 151))
    assert {0, 6, 9, 141, 145} <= SETS["ADE20K"].stuff_ids and not {7, 8, 10, 149} & SETS["ADE20K"].stuff_ids
    assert {2, 18, 31, 43, 58, 63, 64} <= SETS["Mapillary Vistas"].stuff_ids
    assert not {0, 1, 8, 19, 23, 32} & SETS["Mapillary Vistas"].stuff_ids


# the rows of detectron2's metadata that no file here can vouch for: an edit of the table must be made twice
STUFF = {
    "Cityscapes": "0-10",
    "ADE20K": "0-6,9,11,13,16-17,21,25-26,28-29,34,40,46,48,51-52,54,59-61,63,68,77,79,84,91,94,96,99-101,105-106,109,"
    "113-114,117,122,128,131,140-141,145",
    "Mapillary Vistas": "2-7,9-18,24-31,43,58,63-64",
}


@pytest.mark.parametrize("name", STUFF)
def test_stuff_ids_of_the_table(name: str) -> None:
    ranges = [part.split("-") for part in STUFF[name].split(",")]
    assert SETS[name].stuff_ids == {i for part in ranges for i in range(int(part[0]), int(part[-1]) + 1)}
    assert SETS["Cityscapes"].dataset_ids == (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)


def test_coco_ids_are_those_of_its_own_files(shared_data: Path) -> None:
    panoptic = json.loads((shared_data / "coco128_panoptic_train" / "panoptic_train2017.json").read_text())[
        "categories"
    ]
    assert SETS["COCO panoptic"].dataset_ids == tuple(category["id"] for category in panoptic)
    assert SETS["COCO panoptic"].stuff_ids == {i for i, category in enumerate(panoptic) if not category["isthing"]}
    names = {i: category["name"] for i, category in enumerate(panoptic)}
    assert find_label_set(names) is SETS["COCO panoptic"]
    instance = json.loads((shared_data / "coco_tiny" / "annotations" / "instances_val2017.json").read_text())[
        "categories"
    ]
    assert SETS["COCO instance"].dataset_ids == tuple(category["id"] for category in instance)
    assert find_label_set({i: category["name"] for i, category in enumerate(instance)}) is SETS["COCO instance"]


@pytest.mark.parametrize("name", COUNTS)
def test_recognised_only_when_size_and_all_marks_fit(name: str) -> None:
    names = names_of(name)
    assert find_label_set(names) is SETS[name]
    assert find_label_set({i: f" {text} " for i, text in names.items()}) is SETS[name]  # "bed " and its like
    for i, text in SETS[name].marks:
        assert find_label_set(names | {i: text.swapcase()}) is None
        assert find_label_set(names | {i: f"{text}s"}) is None
    assert find_label_set(names | {len(names): "one more"}) is None
    assert find_label_set({i: text for i, text in names.items() if i != 1}) is None
    assert find_label_set({}) is None


def test_stuff_ids_by_config_then_checkpoint_then_label_set_then_none() -> None:
    ade = SETS["ADE20K"]
    one, two, empty = frozenset({1}), frozenset({2}), frozenset[int]()
    assert find_stuff_ids(one, two, ade) == (one, "config")
    assert find_stuff_ids(empty, two, ade) == (empty, "config")
    assert find_stuff_ids(None, two, ade) == (two, "checkpoint")
    assert find_stuff_ids(None, empty, ade) == (empty, "checkpoint")
    assert find_stuff_ids(None, None, ade) == (ade.stuff_ids, "label set")
    assert find_stuff_ids(None, None, SETS["COCO instance"]) == (empty, "label set")
    assert find_stuff_ids(None, None, None) == (empty, "none")


def test_categories_have_stripped_names_and_the_datasets_ids() -> None:
    names = {2: "sky", 0: "cat ", 1: "dog"}
    found = categories_of(names, frozenset({2}), None)
    assert [(c.id, c.name, c.isthing, c.dataset_id) for c in found] == [
        (0, "cat", True, 1),
        (1, "dog", True, 2),
        (2, "sky", False, 3),
    ]
    coco = categories_of(names_of("COCO panoptic"), SETS["COCO panoptic"].stuff_ids, SETS["COCO panoptic"])
    assert (coco[11].dataset_id, coco[79].isthing, coco[80].isthing, coco[80].dataset_id) == (13, True, False, 92)


@pytest.mark.parametrize(
    ("name", "task", "width", "edges"),
    [
        ("COCO panoptic", "panoptic", 96, (800, 1333)),
        ("COCO instance", "instance", None, (800, 1333)),
        ("Cityscapes", "semantic", 192, (1024, 2048)),
        ("Cityscapes instance", "instance", 96, (1024, 2048)),
        ("Mapillary Vistas", "panoptic", 192, (2048, 2048)),
        ("ADE20K", "semantic", None, (512, 2048)),  # R50, R101
        ("ADE20K", "semantic", 96, (512, 2048)),  # Swin-T, Swin-S
        ("ADE20K", "semantic", 128, (640, 2560)),  # Swin-B
        ("ADE20K", "semantic", 192, (640, 2560)),  # Swin-L
        ("ADE20K", "panoptic", 96, (640, 2560)),
        ("ADE20K", "instance", None, (640, 2560)),
    ],
)
def test_paper_sizes(name: str, task: str, width: int | None, edges: tuple[int, int]) -> None:
    config = {} if width is None else {"backbone_config": {"embed_dim": width}}
    found = FAMILY.pixels.paper(config, PLAN, SETS[name], task)  # type: ignore[arg-type]  # a task, from a table
    assert found is not None and found.rounding == "detectron2"
    assert found.size == AspectSize(shortest_edge=edges[0], longest_edge=edges[1])


def test_label_sets_that_the_paper_does_not_have_have_no_paper_size() -> None:
    assert FAMILY.pixels.paper({}, PLAN, LabelSet("mine", 1, (), frozenset(), (1,)), "panoptic") is None
