"""labelme JSONs made by hand: every shape, groups, labels, and what stops the reader."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import notes_to
from m2f_batch.vision.masks.rle import decode_mask

HEIGHT, WIDTH = 30, 40
BLANK = (  # a PNG of one black pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
TRIANGLE = [[2.5, 3.0], [20.0, 4.0], [9.0, 25.0]]


def shape(label: str = "ball", points: Any = TRIANGLE, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def write(folder: Path, *shapes: Any, name: str = "a", **changes: Any) -> None:
    document = {"imagePath": f"{name}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [*shapes]}
    (folder / f"{name}.json").write_text(json.dumps(document | changes))


def read(folder: Path, **options: Any) -> Dataset:
    return read_dataset("labelme", str(folder), **options)


def masks(dataset: Dataset) -> list[tuple[str, np.ndarray]]:
    row = next(dataset.rows())
    return [
        (dataset.categories[s["category"]].name, decode_mask(s["counts"], (row["height"], row["width"])))
        for s in row["segments"]
    ]


def filled(*polygons: list[float]) -> np.ndarray:
    parts = coco_mask.frPyObjects([[*map(float, polygon)] for polygon in polygons], HEIGHT, WIDTH)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def flat(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


def test_polygons_are_filled_as_pycocotools_fills_them(tmp_path):
    write(tmp_path, shape("crate", kind=None), shape("ball"))
    dataset = read(tmp_path)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(1, "ball", True), (2, "crate", True)]
    assert [name for name, _ in masks(dataset)] == ["crate", "ball"]
    for _, mask in masks(dataset):
        np.testing.assert_array_equal(mask, filled(flat(TRIANGLE)))
    row = next(dataset.rows())
    assert (row["uri"], row["image_id"], row["height"], row["width"]) == (f"{tmp_path}/a.jpg", 1, HEIGHT, WIDTH)


def test_rectangles_and_circles(tmp_path):
    write(
        tmp_path, shape(points=[[20, 25], [4, 5]], kind="rectangle"), shape(points=[[15, 14], [23, 14]], kind="circle")
    )
    (_, rectangle), (_, circle) = masks(read(tmp_path))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5:25, 4:20] = True
    np.testing.assert_array_equal(rectangle, expected)
    sides = max(int(math.pi / math.acos(1 - 1 / 8)), 12)  # as labelme2coco
    angles = 2 * np.pi * np.arange(sides) / sides
    corners = np.stack([15 + 8 * np.sin(angles), 14 + 8 * np.cos(angles)], axis=1)
    np.testing.assert_array_equal(circle, filled(corners.ravel().tolist()))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 0, 1], [0, 2, 1, 3], [0, 1, 2, 3, 0]])
def test_rectangles_of_four_corners(tmp_path, order):
    corners = [[8, 7.6], [32, 8], [32, 28], [8.2, 28]]  # of X-AnyLabeling, from any corner
    write(tmp_path, shape(points=[corners[number] for number in order], kind="rectangle"))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[8:28, 8:32] = True
    ((_, rectangle),) = masks(read(tmp_path))
    np.testing.assert_array_equal(rectangle, expected)


@pytest.mark.parametrize("kind", ["rotation", "quadrilateral", "oriented_rectangle"])
def test_turned_rectangles_are_polygons_of_their_four_points(tmp_path, kind):
    corners = [[10, 10], [30, 14], [27, 28], [7, 24]]
    write(tmp_path, shape(points=corners, kind=kind, direction=0.2))
    ((_, turned),) = masks(read(tmp_path))
    np.testing.assert_array_equal(turned, filled(flat(corners)))


def test_bitmaps_also_over_the_edge(tmp_path):
    bitmap = np.random.default_rng(0).random((6, 5)) < 0.5
    buffer = io.BytesIO()
    Image.fromarray(bitmap.astype(np.uint8) * 255).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    boxes = [[[10, 3], [14, 8]], [[-2, -1], [2, 4]], [[37, 27], [41, 32]]]
    write(tmp_path, *(shape(points=points, kind="mask", mask=data) for points in boxes))
    for (_, mask), ((x, y), _) in zip(masks(read(tmp_path)), boxes, strict=True):
        large = np.zeros((HEIGHT + 20, WIDTH + 20), bool)
        large[10 + y : 16 + y, 10 + x : 15 + x] = bitmap
        np.testing.assert_array_equal(mask, large[10:-10, 10:-10])


def test_groups_join_shapes_of_one_label(tmp_path):
    other = [[22.0, 20.0], [38.0, 21.0], [30.0, 29.0]]
    write(tmp_path, shape(group_id=0), shape("crate", group_id=0), shape(points=other, group_id=0), shape(points=other))
    found = masks(read(tmp_path))
    assert [name for name, _ in found] == ["ball", "crate", "ball"]
    np.testing.assert_array_equal(found[0][1], filled(flat(TRIANGLE), flat(other)))
    np.testing.assert_array_equal(found[2][1], filled(flat(other)))


def test_ignored_background_and_what_has_no_area(tmp_path):
    line = shape(points=[[1, 1], [2, 2]], kind="linestrip")
    write(
        tmp_path, shape("__ignore__"), shape("_background_"), line, line, shape(points=[[1, 1]], kind="point"), shape()
    )
    heard: list[str] = []
    with notes_to(heard.append):
        dataset = read(tmp_path)
    assert len(masks(dataset)) == 1
    np.testing.assert_array_equal(decode_mask(next(dataset.rows())["ignored"], (HEIGHT, WIDTH)), filled(flat(TRIANGLE)))
    said = "".join(heard)
    assert "2 shapes of type 'linestrip' have no area and are left out" in said
    assert "1 shapes of type 'point'" in said


@pytest.mark.parametrize("place", [".", ".."])
def test_labels_txt_gives_the_ids(tmp_path, place):
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / place / "labels.txt").write_text("__ignore__\n_background_\nsky\nball\n")
    write(folder, shape())
    dataset = read(folder)
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "sky"), (2, "ball")]
    write(folder, shape(" ball "))
    assert read(folder).table["segments"][0].as_py()[0]["category"] == 1
    write(folder, shape("balls"))
    with pytest.raises(
        UsageError, match=r"a.json: shapes\[0\] \('balls'\): labels.txt does not have it; it has sky, ball"
    ):
        read(folder)


def test_paths_and_sizes_of_images(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos" / "b.jpg")
    missing = {"imageHeight": None, "imageWidth": None, "imagePath": "..\\photos\\b.jpg"}
    write(tmp_path / "json", shape(), **missing)
    row = next(read(tmp_path / "json").rows())
    assert (row["uri"], row["height"], row["width"]) == (f"{tmp_path}/photos/b.jpg", HEIGHT, WIDTH)
    write(tmp_path / "json", shape(), imagePath="C:/somewhere/b.jpg")
    row = next(read(tmp_path / "json", images=str(tmp_path / "photos")).rows())
    assert row["uri"] == f"{tmp_path}/photos/b.jpg"
    write(tmp_path / "json", shape(), **missing | {"imagePath": "nowhere.jpg"})
    with pytest.raises(UsageError, match=r"a.json: has no imageHeight and imageWidth; .*nowhere.jpg: no such file"):
        read(tmp_path / "json")


@pytest.mark.parametrize(
    ("kind", "bad", "text"),
    [
        ("malformed", {"points": TRIANGLE}, r"shapes\[0\]: needs a text 'label'"),
        ("malformed", shape("\ud800"), "needs a text 'label'"),
        ("malformed", shape(kind=["polygon"]), "'shape_type' or none"),  # type: ignore[arg-type]  # the fault
        ("malformed", shape(kind="ellipse"), "shape_type 'ellipse' is not known"),
        ("malformed", shape(group_id=[1]), "group_id must be a number"),
        ("invalid-mask", shape(points=TRIANGLE[:2]), r"a polygon needs at least 3 points \[x, y\]"),
        ("invalid-mask", shape(points=[[1, 2], [3, 4], [5]]), "at least 3 points"),
        ("invalid-mask", shape(points=[[1, 2], [3, 4], [5, "six"]]), "flat list of numbers"),
        ("invalid-mask", shape(points=[[1, 2]], kind="circle"), "a circle needs at least 2"),
        ("invalid-mask", shape(points=TRIANGLE, kind="circle"), "a circle has 2 points; it has 3: draw it as a pol"),
        ("invalid-mask", shape(points=TRIANGLE, kind="mask"), "a mask has 2 points; it has 3"),
        ("invalid-mask", shape(points=TRIANGLE, kind="rotation"), "a rotation needs at least 4 points"),
        ("invalid-mask", shape(points=TRIANGLE, kind="rectangle"), "its 3 points are not the corners of an upright re"),
        ("invalid-mask", shape(points=[[9, 2], [30, 6], [27, 20], [6, 16]], kind="rectangle"), "its 4 points are not"),
        ("invalid-mask", shape(points=[[5, 5], [5, 20]], kind="rectangle"), "this rectangle has no pixel of the image"),
        ("invalid-mask", shape(points=[[5, 5], [5, 5]], kind="circle"), "this circle has no pixel of the image"),
        ("invalid-mask", shape(points=[[5, 5], [9, 9], [7, 7]]), "this polygon has no pixel of the image: no area, or"),
        ("invalid-mask", shape(points=[[x + 50, y] for x, y in TRIANGLE]), "no pixel of the image: no area, or beside"),
        ("invalid-mask", shape(points=[[1, 2], [1, 2]], kind="mask", mask=BLANK), "this mask has no pixel of the ima"),
        ("invalid-mask", shape(points=[[1, 2], [3, 4]], kind="mask", mask="%"), "no PNG of the size"),
    ],
)
def test_faults_of_a_shape(tmp_path, kind, bad, text):
    write(tmp_path, bad, shape())
    with pytest.raises(UsageError, match=text) as raised:
        read(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/a.json: shapes[0]")
    found: list[Finding] = []
    assert len(masks(read(tmp_path, report=found.append))) == 1
    assert [finding.kind for finding in found] == [kind]


def test_faults_of_files(tmp_path):
    with pytest.raises(UsageError, match="has no JSON"):
        read(tmp_path)
    write(tmp_path)
    with pytest.raises(UsageError, match="none of 1 images has an object"):
        read(tmp_path)
    (tmp_path / "a.json").write_text('{"imagePath": "a.jpg"}')
    with pytest.raises(UsageError, match=r"a.json: is no labelme JSON"):
        read(tmp_path)


def test_image_names_of_another_machine(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos" / "M\u00fcller.jpg")
    write(tmp_path, shape(), imagePath="C:\\data\\photos\\Mu\u0308ller.jpg")
    found: list[Finding] = []
    dataset = read(tmp_path, report=found.append)
    assert dataset.table["uri"].to_pylist() == [f"{tmp_path}/photos/M\u00fcller.jpg"]
    assert [finding.kind for finding in found] == ["other-name"]
    assert found[0].text.startswith("1 of 1 names are read as those of files that are there (folders, backslashes")
