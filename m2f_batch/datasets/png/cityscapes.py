"""Knows Cityscapes' files: endings of names, values of pixels. https://www.cityscapes-dataset.com

``labelIds`` are 0 to 33, of which 19 are evaluated. ``labelTrainIds`` are these as 0 to 18, and 255. ``instanceIds``
are 1000 times the label id plus a number for each object, and the label id itself for what is no single object.
"""

from collections.abc import Mapping

from m2f_batch.datasets.dataset import Category
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.masks import union_rle
from m2f_batch.models.label_sets import LABEL_SETS

IMAGE_ENDING = "_leftImg8bit"
TRAIN_IDS, LABEL_IDS, INSTANCE_IDS = "labelTrainIds", "labelIds", "instanceIds"
_GRADES = ("gtFine", "gtCoarse")
# endings of masks by what they show, first what training wants most
CLASS_MASKS = tuple(f"_{grade}_{kind}" for kind in (TRAIN_IDS, LABEL_IDS) for grade in _GRADES)
OBJECT_MASKS = tuple(f"_{grade}_{INSTANCE_IDS}" for grade in _GRADES)
CITYSCAPES = next(known for known in LABEL_SETS if known.name == "Cityscapes")
NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
VALUES = frozenset((*range(34), 255))  # of labelIds
_OBJECTS_OF = 1000  # values per label id in instanceIds
_THING_IDS = next(known for known in LABEL_SETS if known.name == "Cityscapes instance").dataset_ids
THINGS = tuple(
    Category(number, name, True)
    for number, name in zip(CITYSCAPES.dataset_ids, NAMES, strict=True)
    if number in _THING_IDS
)


def objects_of(codes: Mapping[int, str], size_hw: tuple[int, int]) -> Row:
    """Returns the ``segments`` and ``ignored`` of the masks of all values of ``instanceIds``.

    A thing's label id alone is a group of objects, a crowd. Classes that are not evaluated are ignored, stuff is
    background.
    """
    positions = {category.id: position for position, category in enumerate(THINGS)}
    segments, void = [], []
    for value, counts in codes.items():
        label = value // _OBJECTS_OF if value >= _OBJECTS_OF else value
        if label in positions:
            is_group = value < _OBJECTS_OF
            segments.append({"category": positions[label], "iscrowd": is_group, "counts": counts})
        elif label not in CITYSCAPES.dataset_ids:
            void.append(counts)
    ignored = union_rle(void, size_hw) if len(void) > 1 else next(iter(void), None)
    return {"segments": segments, "ignored": ignored}
