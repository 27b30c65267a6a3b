"""What the values of mask PNGs mean: names, suffixes, colors, known label sets, and what only looks like classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.names import given_names
from m2f_batch.datasets.png.palette import given_palette
from m2f_batch.datasets.png.smooth import lines_of
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.datasets.splits.train_val import read_splits
from m2f_batch.errors import UsageError
from m2f_batch.evaluation.ground_truth import GroundTruth
from m2f_batch.vision.masks.rle import decode_mask

VALUES = np.array([[0, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
CITYSCAPES = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky person rider car truck "
    "bus train motorcycle bicycle"
)


def write(folder: Path, images: str, masks: dict[str, np.ndarray]) -> None:
    """An image per name in ``images``, and the masks, by path."""
    for name in images.split():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 2)).save(folder / "images" / name)
    for name, values in masks.items():
        (folder / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / "masks" / name)


def read(folder: Path, form: str = "semantic-png", **options: Any) -> tuple[Dataset, list[str]]:
    """The dataset, and its findings as "kind: text"."""
    found: list[Finding] = []
    dataset = read_dataset(form, str(folder / "masks"), str(folder / "images"), report=found.append, **options)
    return dataset, [f"{finding.kind}: {finding.text}" for finding in found]


def classes(dataset: Dataset) -> list[np.ndarray]:
    """Category ids of each image, [H, W]; -1 where ignored, -2 where nothing is."""
    found = []
    for row in dataset.rows():
        size = row["height"], row["width"]
        values = np.full(size, -2)
        for segment in row["segments"]:
            values[decode_mask(segment["counts"], size)] = dataset.categories[segment["category"]].id
        if row["ignored"] is not None:
            values[decode_mask(row["ignored"], size)] = -1
        found.append(values)
    return found


@pytest.mark.parametrize(
    "given",
    ["[sky, 'yes', 007]", ["sky", "yes", "007"], {0: "sky", 1: "yes", "2": "007"}, "{0: sky, 1: yes, 2: 007}"],
)
def test_names_from_the_config(tmp_path, given):
    write(tmp_path, "a.jpg", {"a.png": VALUES})
    dataset, found = read(tmp_path, names=given)
    assert [category.name for category in dataset.categories] == ["sky", "yes", "007"]
    np.testing.assert_array_equal(classes(dataset)[0], VALUES)
    assert found == []


def test_names_of_the_config_from_a_file_and_in_both_sides(tmp_path):
    for side in ("train", "val"):
        write(tmp_path / side, "a.jpg b.jpg", {"a.png": VALUES, "b.png": VALUES % 2})
    (tmp_path / "classes.json").write_text(
        json.dumps([{"id": number, "name": name} for number, name in enumerate(["sky", "kite", 3])])
    )
    keys = [
        f"data.{side}{part}={tmp_path}/{side}/{folder}"
        for side, part, folder in (
            ("train", "", "masks"),
            ("train", "_images", "images"),
            ("val", "", "masks"),
            ("val", "_images", "images"),
        )
    ]
    common = ["data.format=semantic-png", "output.uri=/out", "train.steps=1", *keys]
    config = load_config(FinetuneConfig, overrides=[*common, f"data.names={tmp_path}/classes.json"])
    for dataset in read_splits(config.dataset):
        assert [category.name for category in dataset.categories] == ["sky", "kite", "3"]
    (tmp_path / "classes.json").rename(tmp_path / "train" / "masks" / "classes.json")  # found; of data.val too
    for dataset in read_splits(load_config(FinetuneConfig, overrides=common).dataset):
        assert [category.name for category in dataset.categories] == ["sky", "kite", "3"]


@pytest.mark.parametrize("place", ["masks/names.txt", "labels.yaml"])
def test_names_beside_the_masks_where_they_fit(tmp_path, place):
    write(tmp_path, "a.jpg", {"a.png": VALUES})
    (tmp_path / place).write_text("sky\nkite\nball\n" if place.endswith("txt") else "names: [sky, kite, ball]")
    dataset, found = read(tmp_path)
    assert [category.name for category in dataset.categories] == ["sky", "kite", "ball"]
    assert found == [f"names-beside: the names of 3 classes are those of {tmp_path}/{place}"]
    (tmp_path / place).write_text("sky\nkite\n" if place.endswith("txt") else "names: [sky, kite]")
    dataset, found = read(tmp_path)
    assert [category.name for category in dataset.categories] == ["class 0", "class 1", "class 2"]
    text = "has no name for some values of the masks and is not used; data.names takes it anyway"
    assert found == [f"names-beside: {tmp_path}/{place} {text}"]
    (tmp_path / place).write_text("names: {a: b}")  # something else of that name
    assert read(tmp_path)[1] == [] or place.endswith("txt")


@pytest.mark.parametrize(("given", "text"), [([True, "a"], "True"), ({"a": "b"}, "'a': 'b'"), ("[", "not valid YAML")])
def test_names_that_are_none(given, text):
    with pytest.raises(UsageError, match=rf"data.names.*{text}"):
        given_names(given, "data.names")


def test_masks_by_suffix(tmp_path):
    write(tmp_path, "1_sat.jpg 2_sat.jpg", {"1_mask.png": VALUES, "2_mask.png": VALUES})
    dataset, found = read(tmp_path)
    assert dataset.table["uri"].to_pylist() == [f"{tmp_path}/images/{number}_sat.jpg" for number in (1, 2)]
    assert found == ["mask-suffix: masks are taken by the ending '_mask' of their names, as data.mask_suffix would"]
    assert read(tmp_path, mask_suffix="_mask")[1] == []
    with pytest.raises(UsageError, match=r"data.mask_suffix: '_seg' ends the name of none of 2 masks "):
        read(tmp_path, mask_suffix="_seg")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds", "labelTrainIds with names"])
def test_cityscapes(tmp_path, kind):
    names = None if "with" not in kind else CITYSCAPES.replace("_", "_").split()
    kind = kind.split()[0]
    values = np.array([[7, 8, 33, 4], [0, 26, 7, 7]] if kind == "labelIds" else [[0, 1, 18, 255]] * 2, np.uint8)
    stems = ["aachen/aachen_000000_000019", "bremen/bremen_000001_000019"]
    masks = {f"{stem}_gtFine_{kind}.png": values for stem in stems}
    masks |= {f"{stem}_gtFine_color.png": np.zeros((2, 4, 3), np.uint8) for stem in stems}
    write(tmp_path, " ".join(f"{stem}_leftImg8bit.png" for stem in stems), masks)
    dataset, found = read(tmp_path, names=names)
    assert [category.name.replace(" ", "_") for category in dataset.categories] == CITYSCAPES.split()
    ids = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33] if kind == "labelIds" else [*range(19)]
    assert [category.id for category in dataset.categories] == ids
    learned = np.isin(values, ids)
    for found_values in classes(dataset):
        np.testing.assert_array_equal(found_values, np.where(learned, values.astype(int), -1))
    assert found == [
        f"mask-suffix: masks are taken by the ending '_gtFine_{kind}' of their names, as data.mask_suffix would; "
        "2 other PNGs are left out",
        f"label-set: values are Cityscapes' {kind}: its 19 classes are learned, its other values ignored",
    ]


def test_cityscapes_file_values_by_its_names(tmp_path):
    write(tmp_path, "a.jpg", {"a.png": np.array([[7, 8, 33, 0]] * 2, np.uint8)})
    dataset, found = read(tmp_path, names=CITYSCAPES.split())
    assert classes(dataset)[0].tolist() == [[7, 8, 33, -1]] * 2
    assert found[0].startswith("label-set: values are Cityscapes' labelIds")


def test_ade20k_file_values(tmp_path):
    names = ["wall", *(f"thing {number}" for number in range(1, 149)), "flag"]
    write(tmp_path, "a.jpg", {"a.png": np.array([[0, 3, 10, 120]] * 2, np.uint8)})
    assert read(tmp_path, names=names)[1] == [
        "label-set: the names are ADE20K's, whose own files hold 0 for no label and class ids + 1: as it is, 0 is read "
        "as 'wall'; for such files set data.do_reduce_labels"
    ]
    dataset, found = read(tmp_path, names=names, do_reduce_labels=True)
    assert (classes(dataset)[0].tolist(), found) == ([[-1, 2, 9, 119]] * 2, [])
    write(tmp_path, "a.jpg", {"a.png": np.array([[0, 3, 10, 150]] * 2, np.uint8)})
    assert (
        "these are ADE20K's own file values, class ids + 1: set data.do_reduce_labels"
        in read(tmp_path, names=names)[1][1]
    )


def test_masks_of_0_and_255(tmp_path):
    values = (VALUES > 0).astype(np.uint8) * 255
    write(tmp_path, "a.jpg b.jpg", {"a.png": values, "b.png": values})
    found = read(tmp_path)[1]
    assert found[0] == (
        "unknown-value: has pixels of 255, and all masks hold 0 and 255 only: if 255 is a class, name it, as in "
        "data.names='{0: background, 255: object}'; if it counts for nothing, set data.ignore_index to 255"
    )
    dataset, found = read(tmp_path, names="{0: background, 255: object}")
    np.testing.assert_array_equal(classes(dataset)[0], values)
    assert found == []
    assert any(
        text.startswith("one-value: outside 255, which data.ignore_index leaves out")
        for text in read(tmp_path, ignore_index=255)[1]
    )
    assert read(tmp_path, "instance-png")[1] == [
        "one-value: all masks hold 0 and 255 only: whatever is drawn in an image counts as one object"
    ]


def test_gray_pictures_of_three_channels(tmp_path):
    picture = np.repeat(VALUES[..., None], 3, axis=2)
    alpha = np.concatenate([picture, np.full((2, 4, 1), 255, np.uint8)], axis=2)
    write(tmp_path, "a.jpg b.jpg c.jpg", {"a.png": picture, "b.png": alpha, "c.png": VALUES})
    dataset, found = read(tmp_path)
    for values in classes(dataset):
        np.testing.assert_array_equal(values, VALUES)
    assert len(found) == 1 and "2 masks are gray pictures of three equal channels, read as one" in found[0]
    alpha[0, 0, 3] = 0
    write(tmp_path, "", {"b.png": alpha})
    assert "transparent pixels" in read(tmp_path)[1][0]


COLORS = {"sky": [10, 20, 30], "kite": "#0a1400", "__ignore__": [255, 255, 255]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inline", COLORS),
        ("p.json", json.dumps(COLORS)),
        ("p.json", json.dumps({"palette": COLORS})),
        ("class_dict.csv", "name,r,g,b\nsky,10,20,30\nkite,10, 20, 0\n__ignore__,255,255,255\n"),
        ("label_colors.txt", "10 20 30\tsky\n10 20 0\tkite\n255 255 255\t__ignore__\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:10,20,30::\nkite:10,20,0::\n__ignore__:255,255,255::\n"),
    ],
)
def test_colors(tmp_path, name, text):
    picture = np.array([[[10, 20, 30], [10, 20, 0], [255, 255, 255], [10, 20, 0]]] * 2, np.uint8)
    write(tmp_path, "a.jpg b.jpg", {"a.png": picture, "b.png": picture})
    Image.fromarray(picture).quantize(8).save(tmp_path / "masks" / "b.png")  # the same as a palette PNG
    if isinstance(text, str):
        (tmp_path / name).write_text(text)
    dataset, found = read(tmp_path, palette=text if name == "inline" else str(tmp_path / name))
    assert [category.name for category in dataset.categories] == ["sky", "kite"]
    assert [values.tolist() for values in classes(dataset)] == [[[0, 1, -1, 1]] * 2] * 2
    assert found == []
    write(tmp_path, "", {"a.png": picture + 1})
    assert (
        "3 colors that data.palette lacks: [0, 0, 0], [11, 21, 1], [11, 21, 31]" in read(tmp_path, palette=COLORS)[1][0]
    )


def test_colors_of_ids_take_their_names_from_data_names():
    assert given_palette([[0, 0, 0], [0, 0, 1]], None) == ({0: 0, 1: 1}, None)
    assert given_palette({7: [0, 0, 1], "a": [0, 0, 2]}, {7: "b", 9: "a"}) == ({1: 7, 2: 9}, {7: "b", 9: "a"})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"a": [0, 0]}, r"'a': a color is \[r, g, b\] of 0 to 255"),
        ({"a": [0, 0, 256]}, "of 0 to 255"),
        ({"a": [0, 0, 1], "b": "#000001"}, r"'b': the color \[0, 0, 1\] is also that of class 0"),
        ("{}", "wanted a mapping of names or ids"),
        ({"c": [1, 2, 3]}, "'c' is no name of a class; they are sky"),
    ],
)
def test_colors_that_are_none(given, text):
    with pytest.raises(UsageError, match=f"data.palette: .*{text}"):
        given_palette(given, {0: "sky"} if given == {"c": [1, 2, 3]} else None)


def test_the_class_of_objects(tmp_path):
    write(tmp_path, "a.jpg", {"a.png": VALUES})
    (tmp_path / "classes.txt").write_text("background\ncell\n")
    dataset, found = read(tmp_path, "instance-png")
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "cell")]
    assert found == [f"names-beside: objects are of the class 'cell', as {tmp_path}/classes.txt says"]
    dataset, found = read(tmp_path, "instance-png", names=["nucleus"])
    assert ([category.name for category in dataset.categories], found) == (["nucleus"], [])
    with pytest.raises(UsageError, match=r"data.names: 2 classes, and no id map says of which of them an object is"):
        read(tmp_path, "instance-png", names=["background", "cell", "nucleus"])
    (tmp_path / "map.json").write_text('{"a.png": {"1": 2, "2": "cell"}}')
    dataset = read_dataset(
        "instance-png",
        str(tmp_path / "map.json"),
        str(tmp_path / "images"),
        str(tmp_path / "masks"),
        names=["background", "cell", "nucleus"],
    )
    assert [segment["category"] for segment in next(dataset.rows())["segments"]] == [2, 1]


def test_keys_that_do_not_apply():
    common = ["data.train=x", "output.uri=/out", "train.steps=1"]
    for key in ("names=[a]", "mask_suffix=_mask", "palette={a: [0, 0, 0]}"):
        with pytest.raises(UsageError, match=rf"data.{key.split('=')[0]}: .* does not apply to data.format 'coco'"):
            load_config(FinetuneConfig, overrides=[*common, f"data.{key}"])
    with pytest.raises(UsageError, match=r"data.names: .* is not allowed"):
        load_config(FinetuneConfig, overrides=[*common, "data.format=semantic-png", "data.names=[yes, no]"])


def test_lines_between_two_classes():
    drawn = np.zeros((60, 60), np.uint8)
    drawn[10:50, 10:50] = 4
    drawn[20:30, 20:30] = 1
    assert lines_of(drawn).values == frozenset()
    smooth = np.asarray(Image.fromarray(drawn).resize((150, 150), Image.Resampling.BILINEAR))
    found = lines_of(smooth)
    assert {2, 3} <= found.values and {2, 3} <= found.in_stairs
    nearest = np.asarray(Image.fromarray(drawn).resize((150, 150), Image.Resampling.NEAREST))
    assert lines_of(nearest).values == frozenset()
    membrane = np.where(drawn == 4, 2, 0)
    membrane[9:51, 9] = membrane[9:51, 50] = membrane[9, 9:51] = membrane[50, 9:51] = 1
    assert lines_of(membrane) == (frozenset({1}), frozenset())  # thin by nature: no stairs
    assert lines_of(np.where(drawn == 4, 255, drawn), 255).values == frozenset()


def test_objects_of_cityscapes(tmp_path):
    values = np.array([[7, 24000, 24001, 26], [0, 26003, 29000, 33002]], np.uint16)
    stem = "aachen/aachen_000000_000019"
    masks = {f"{stem}_gtFine_instanceIds.png": values, f"{stem}_gtFine_labelIds.png": (values // 1000).astype(np.uint8)}
    write(tmp_path, f"{stem}_leftImg8bit.png", masks)
    dataset, found = read(tmp_path, "instance-png")
    (row,) = dataset.rows()
    objects = [
        (
            dataset.categories[one["category"]].id,
            dataset.categories[one["category"]].name,
            one["iscrowd"],
            mask.tolist(),
        )
        for one in row["segments"]
        for mask in [np.argwhere(decode_mask(one["counts"], (2, 4)))]
    ]
    assert objects == [
        (26, "car", True, [[0, 3]]),  # a group of cars
        (24, "person", False, [[0, 1]]),
        (24, "person", False, [[0, 2]]),
        (26, "car", False, [[1, 1]]),
        (33, "bicycle", False, [[1, 3]]),
    ]
    np.testing.assert_array_equal(decode_mask(row["ignored"], (2, 4)), np.isin(values, [0, 29000]))
    assert [category.id for category in dataset.categories] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert "label-set: values are Cityscapes' instanceIds: objects are of its 8 classes of things" in found


def test_objects_resized_smoothly(tmp_path):
    drawn = np.zeros((40, 40), np.uint16)
    drawn[5:15, 5:15], drawn[20:35, 20:35] = 5, 9
    for way, kinds in ((Image.Resampling.NEAREST, []), (Image.Resampling.BILINEAR, ["smooth-mask"])):
        values = np.asarray(Image.fromarray(drawn.astype(np.uint8)).resize((100, 100), way))
        write(tmp_path, "a.jpg", {"a.png": values})
        found = read(tmp_path, "instance-png")[1]
        assert [text.partition(":")[0] for text in found] == kinds
    assert found[0].startswith("smooth-mask: 1 of 1 masks have objects that are nothing but lines of a few pixels")


def test_classes_without_names_are_said(tmp_path):
    write(tmp_path, "a.jpg", {"a.png": VALUES})
    keys = ["data.format=semantic-png", f"data.train={tmp_path}/masks", f"data.train_images={tmp_path}/images"]
    config = load_config(FinetuneConfig, overrides=[*keys, "output.uri=/out", "train.steps=1"])
    found: list[Finding] = []
    read_splits(config.dataset, found.append)
    assert [finding.kind for finding in found] == ["unnamed-classes"]
    assert found[0].text.startswith(
        "its 3 classes have no names, so the model calls them class 0, class 1, ...; data.names"
    )


def test_real_masks_have_no_lines_until_they_are_resized_smoothly(shared_data):
    files = sorted((shared_data / "coco128_panoptic_train/semantic").rglob("*.png"))[::10]
    assert len(files) >= 10
    for file in files:
        image = Image.open(file)
        size = image.width * 3 // 2, image.height * 3 // 2
        values = np.asarray(image)
        drawn = Image.fromarray(values)  # its indices, without the palette
        assert lines_of(values, 255).values == frozenset()
        assert lines_of(np.asarray(drawn.resize(size, Image.Resampling.NEAREST)), 255).values == frozenset()
        assert lines_of(np.asarray(drawn.resize(size, Image.Resampling.BILINEAR)), 255).in_stairs


def test_evaluate_reads_masks_by_the_same_options(tmp_path):
    write(tmp_path, "1.jpg 2.jpg", {"1_seg.png": VALUES, "2_seg.png": VALUES})
    options = {"form": "semantic-png", "images": f"{tmp_path}/images", "mask_suffix": "_seg"}
    _, dataset = GroundTruth(f"{tmp_path}/masks", names="[sky, kite, ball]", **options).read("/nowhere")
    assert [category.name for category in dataset.categories] == ["sky", "kite", "ball"]
    with pytest.raises(UsageError, match=r"^--names: 0: '': ids must be whole numbers"):
        GroundTruth(f"{tmp_path}/masks", names="['', kite, ball]", **options).read("/nowhere")
    palette = "{sky: [0, 0, 0], kite: [1, 1, 1], ball: [2, 2, 2]}"
    _, dataset = GroundTruth(f"{tmp_path}/masks", palette=palette, **options).read("/nowhere")
    np.testing.assert_array_equal(classes(dataset)[1], VALUES)


def test_a_list_that_is_taken_for_a_file_is_answered_with_how_a_list_is_written(tmp_path: Path):
    where = str(tmp_path / "ball,star")
    with pytest.raises(UsageError, match=r"data\.names: .*ball,star: no such file; names .* '\[ball, crate\]'$"):
        given_names(where, "data.names")
    with pytest.raises(UsageError, match=r"data\.palette: .*no such file; colors .* '\{ball: \[255, 0, 0\]\}'$"):
        given_palette(where, None)
