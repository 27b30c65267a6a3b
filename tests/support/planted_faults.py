"""Small clean datasets of every format, and the faults that are planted in them: what lint must find, and no other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 72, 96
NAMES = ("cell", "nucleus", "debris")
BOXES = ([8, 8, 24, 20], [40, 30, 30, 25], [10, 40, 20, 24])  # x, y, w, h; one per class
Options = dict[str, Any]


def photograph(seed: int) -> Image.Image:
    """A picture like no other: 6 x 8 random colours, blurred by enlarging, with grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8))


def rectangle(box: list[int]) -> list[float]:
    x, y, w, h = box
    return [float(value) for value in (x, y, x + w, y, x + w, y + h, x, y + h)]


def moved(box: list[int], seed: int) -> list[int]:
    """Annotations differ from image to image, as those of real ones do."""
    return [box[0] + seed % 5, box[1] + seed % 3, box[2], box[3]]


# ---- one clean dataset per format; each returns the flags of lint


def coco(folder: Path, seeds: range = range(6), name: str = "train.json", photos: str = "photos") -> Options:
    (folder / photos).mkdir(exist_ok=True)
    images, annotations = [], []
    for seed in seeds:
        photograph(seed).save(folder / photos / f"p{seed}.png")
        images.append({"id": seed + 1, "file_name": f"{photos}/p{seed}.png", "height": HEIGHT, "width": WIDTH})
        for number, box in enumerate(BOXES):
            own = moved(box, seed)
            annotation = {"id": len(annotations) + 1, "image_id": seed + 1, "category_id": number + 1}
            shape = {"segmentation": [rectangle(own)], "bbox": own, "area": own[2] * own[3], "iscrowd": 0}
            annotations.append(annotation | shape)
    categories = [{"id": number, "name": text} for number, text in enumerate(NAMES, 1)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (folder / name).write_text(json.dumps(document))
    return {"data.train": str(folder / name), "data.format": "coco"}


def coco_with_val(folder: Path) -> Options:
    (folder / "b").mkdir()
    options = coco(folder, range(6), photos="a")
    coco(folder, range(6, 9), "val.json", photos="b")
    return options | {"data.val": str(folder / "val.json")}


def yolo(folder: Path) -> Options:
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True)
    for seed in range(4):
        photograph(seed).save(folder / f"images/train/p{seed}.png")
        lines = []
        for number, box in enumerate(BOXES):
            x, y, _, h = own = moved(box, seed)
            corners = [*rectangle(own), float(x), y + h / 2]  # a fifth point: four corners alone may be an OBB
            points = np.array(corners).reshape(-1, 2) / (WIDTH, HEIGHT)
            lines.append(" ".join([str(number), *(f"{value:.6f}" for value in points.ravel())]))
        (folder / f"labels/train/p{seed}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(f"train: images/train\nnames: {json.dumps(NAMES)}\n")
    return {"data.train": str(folder / "data.yaml"), "data.format": "yolo"}


def pngs(folder: Path, form: str) -> Options:
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed in range(4):
        photograph(seed).save(folder / f"images/p{seed}.png")
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, (x, y, w, h) in enumerate(moved(box, seed) for box in BOXES):
            values[y : y + h, x : x + w] = number + 1
        Image.fromarray(values).save(folder / f"masks/p{seed}.png")
    options = {"data.format": form, "data.train_images": str(folder / "images")}
    if form == "instance-png":
        return options | {"data.train": str(folder / "masks")}
    names = {str(number): name for number, name in enumerate(("background", *NAMES))}
    (folder / "names.json").write_text(json.dumps(names))
    return options | {"data.train": str(folder / "names.json"), "data.train_masks": str(folder / "masks")}


def semantic(folder: Path) -> Options:
    return pngs(folder, "semantic-png")


def instance(folder: Path) -> Options:
    return pngs(folder, "instance-png")


def panoptic(folder: Path) -> Options:
    coco(folder)
    document = json.loads((folder / "train.json").read_text())
    (folder / "train").mkdir()
    entries = []
    for image in document["images"]:
        ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        own = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        for number, (x, y, w, h) in enumerate((entry["bbox"] for entry in own), 1):
            ids[y : y + h, x : x + w, 0] = number
        Image.fromarray(ids).save(folder / f"train/{image['id']}.png")
        infos = [{"id": number, "category_id": number, "iscrowd": 0} for number in range(1, len(own) + 1)]
        entries.append({"image_id": image["id"], "file_name": f"{image['id']}.png", "segments_info": infos})
    (folder / "train.json").write_text(json.dumps(document | {"annotations": entries}))
    return {"data.train": str(folder / "train.json"), "data.format": "coco-panoptic"}


def labelme(folder: Path) -> Options:
    for seed in range(4):
        photograph(seed).save(folder / f"p{seed}.png")
        shapes = [
            {"label": name, "points": np.reshape(rectangle(moved(box, seed)), (-1, 2)).tolist()}
            for name, box in zip(NAMES, BOXES, strict=True)
        ]
        document = {"imagePath": f"p{seed}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
        (folder / f"p{seed}.json").write_text(json.dumps(document))
    return {"data.train": str(folder), "data.format": "labelme"}


CLEAN = (coco, coco_with_val, yolo, semantic, instance, panoptic, labelme)


# ---- the faults


def edited(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "train.json") -> None:
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def id_of_zero(folder: Path) -> None:
    edited(folder, lambda document: document["annotations"][0].update(id=0))


def id_twice(folder: Path) -> None:
    edited(folder, lambda document: document["annotations"][4].update(id=2))


def ids_off_by_one(folder: Path) -> None:
    def shift(document: dict[str, Any]) -> None:
        for entry in document["annotations"][:9]:  # of some images, else a class would be without example too
            entry["category_id"] -= 1

    edited(folder, shift)


def class_is_number_of_names(folder: Path) -> None:
    file = folder / "labels/train/p2.txt"
    file.write_text(file.read_text().replace("\n2 ", "\n3 "))


def value_without_class(folder: Path) -> None:
    values = np.array(Image.open(folder / "masks/p1.png"))
    values[values == 2] = 9
    Image.fromarray(values).save(folder / "masks/p1.png")


def segment_that_nobody_lists(folder: Path) -> None:
    edited(folder, lambda document: document["annotations"][1]["segments_info"].pop())


def annotation_of_no_image(folder: Path) -> None:
    edited(folder, lambda document: document["annotations"][5].update(image_id=99))


def two_categories_of_one_name(folder: Path) -> None:
    edited(folder, lambda document: document["categories"][2].update(name="Cell "))


def box_without_mask(folder: Path) -> None:
    edited(folder, lambda document: document["annotations"][3].pop("segmentation"))


def image_gone(folder: Path) -> None:
    (folder / "photos/p3.png").unlink()


def image_cut_short(folder: Path) -> None:
    file = folder / "images/train/p3.png"
    file.write_bytes(file.read_bytes()[:-2000])


def turned_by_exif(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photograph(2).save(folder / "p2.jpg", exif=exif)
    (folder / "p2.png").unlink()
    edited(folder, lambda document: document.update(imagePath="p2.jpg"), "p2.json")


def image_of_another_size(folder: Path) -> None:
    photograph(4).resize((WIDTH // 2, HEIGHT // 2)).save(folder / "photos/p4.png")


def mask_of_another_size(folder: Path) -> None:
    mask = Image.open(folder / "masks/p2.png")
    mask.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST).save(folder / "masks/p2.png")


def rle_of_another_size(folder: Path) -> None:
    rle = {"size": [WIDTH, HEIGHT], "counts": [100, 200, WIDTH * HEIGHT - 300]}
    edited(folder, lambda document: document["annotations"][1].update(segmentation=rle))


def mask_without_pixel(folder: Path) -> None:
    rle = {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}
    edited(folder, lambda document: document["annotations"][2].update(segmentation=rle))


def mask_of_a_line(folder: Path) -> None:
    shape = {"segmentation": [rectangle([5, 5, 60, 1])], "bbox": [5, 5, 60, 1], "area": 60}
    edited(folder, lambda document: document["annotations"][2].update(shape))


def box_by_its_corners(folder: Path) -> None:
    x, y, w, h = BOXES[1]
    edited(folder, lambda document: document["annotations"][1].update(bbox=[x, y, x + w, y + h]))


def five_objects(folder: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        for number, x in enumerate((70, 82), 100):
            shape = {"segmentation": [rectangle([x, 2, 8, 12])], "bbox": [x, 2, 8, 12], "area": 96}
            document["annotations"].append(document["annotations"][0] | shape | {"id": number})

    edited(folder, add)


def copy_in_another_folder(folder: Path) -> None:
    (folder / "more").mkdir()
    shutil.copy(folder / "p1.png", folder / "more/again.png")
    document = json.loads((folder / "p1.json").read_text())
    (folder / "more/again.json").write_text(json.dumps(document | {"imagePath": "again.png"}))


def object_twice(folder: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        x, y, w, h = BOXES[1]
        shape = {"segmentation": [[*rectangle([x, y, w, h]), float(x), y + 1.0]]}
        document["annotations"].append(document["annotations"][1] | shape | {"id": 100})

    edited(folder, add)


def recompressed_in_val(folder: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        train = json.loads((folder / "train.json").read_text())
        document["images"].append(train["images"][1] | {"id": 77, "file_name": "b/again.jpg"})
        own = [entry for entry in train["annotations"] if entry["image_id"] == 2]
        document["annotations"] += [entry | {"id": 100 + entry["id"], "image_id": 77} for entry in own]

    photograph(1).save(folder / "b/again.jpg", quality=60)
    edited(folder, add, "val.json")


def patient_on_both_sides(folder: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        for image in document["images"]:
            old, number = folder / image["file_name"], image["id"] // 3  # images 3 to 5, and 6 to 8: with 6 in train
            image["file_name"] = f"{old.parent.name}/patient{number}-{image['id']}.png"
            old.rename(folder / image["file_name"])

    for name in ("train.json", "val.json"):
        edited(folder, rename, name)


@dataclass(frozen=True)
class Fault:
    """``ends``: how finetune does, "plan" (exit 2 before it begins), "sample" (at an image), or not: "warning".

    ``says``: parts of what it says then. ``is_note``: what ``lint`` says of it, with exit code 0.
    """

    kind: str
    clean: Callable[[Path], Options]
    plant: Callable[[Path], None]
    ends: str
    says: tuple[str, ...]
    options: Options = field(default_factory=dict)
    is_note: bool = False


FAULTS = [
    Fault(
        "annotation-id-zero",
        coco,
        id_of_zero,
        "warning",
        ("train.json", "annotation ids are 0 or come twice (0)"),
        is_note=True,
    ),
    Fault(
        "duplicate-annotation-id", coco, id_twice, "warning", ("train.json", "are 0 or come twice (2)"), is_note=True
    ),
    Fault("unknown-category", coco, ids_off_by_one, "plan", ("annotations[0] (id 1)", "category_id 0", "off by one")),
    Fault("unknown-category", yolo, class_is_number_of_names, "plan", ("p2.txt: line 3", "class 3", "off by one")),
    Fault("unknown-value", semantic, value_without_class, "plan", ("masks/p1.png", "[9]", "named classes are 0 to 3")),
    Fault("unknown-value", panoptic, segment_that_nobody_lists, "plan", ("annotations[1]", "2.png", "[3]")),
    Fault("unlisted-image", coco, annotation_of_no_image, "plan", ("annotations[5] (id 6)", "image_id 99")),
    Fault(
        "duplicate-category-name", coco, two_categories_of_one_name, "warning", ("category 3 ('Cell')", "category 1")
    ),
    Fault("no-mask", coco, box_without_mask, "plan", ("annotations[3] (id 4)", "no 'segmentation'")),
    Fault("missing-image", coco, image_gone, "sample", ("photos/p3.png",)),
    Fault("unreadable-image", yolo, image_cut_short, "sample", ("images/train/p3.png", "Truncated")),
    Fault("exif-size", labelme, turned_by_exif, "sample", ("p2.jpg", "72 x 96", "96 x 72")),
    Fault("image-size", coco, image_of_another_size, "sample", ("p4.png", "48 x 36", "96 x 72")),
    Fault("mask-size", instance, mask_of_another_size, "sample", ("images/p2.png", "96 x 72", "192 x 144")),
    Fault("mask-size", coco, rle_of_another_size, "plan", ("annotations[1] (id 2)", "[96, 72]", "[72, 96]")),
    Fault("empty-mask", coco, mask_without_pixel, "warning", ("p0.png: object 3 ('debris')", "no pixel")),
    Fault("sliver-mask", coco, mask_of_a_line, "warning", ("p0.png: object 3 ('debris')", "1.0 pixels thick")),
    Fault(
        "box-mismatch", coco, box_by_its_corners, "warning", ("annotations[1]", "[40, 30, 70, 55]", "[40, 30, 30, 25]")
    ),
    Fault(
        "more-objects-than-queries",
        coco,
        five_objects,
        "warning",
        ("p0.png", "5 objects", "4 queries"),
        {"model.config": {"num_queries": 4}},
    ),
    Fault("identical-images", labelme, copy_in_another_folder, "warning", ("p1.png", "more/again.png")),
    Fault("duplicate-annotation", coco, object_twice, "warning", ("p0.png: object 4", "object 2 ('nucleus')", "IoU")),
    Fault("leaked-image", coco_with_val, recompressed_in_val, "warning", ("b/again.jpg", "a/p1.png")),
    Fault(
        "group-on-both-sides",
        coco_with_val,
        patient_on_both_sides,
        "plan",
        ("data.group_by", "group 'patient2'", "both sides"),
        {"data.group_by": "pattern:(patient\\d+)"},
    ),
]
