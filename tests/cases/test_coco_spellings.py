"""COCO JSONs of certain meaning, as tables, tools and scripts spell them: the masks come out to the pixel."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.cli import main

SIZE = (24, 32)  # height, width
BOXES = {"ball": (2, 3, 8, 6), "crate": (14, 5, 10, 12)}  # x, y, width, height


def mask_of(name):
    x, y, width, height = BOXES[name]
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def outline(name):
    x, y, width, height = BOXES[name]
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def points(name):
    flat = outline(name)
    return [[flat[at], flat[at + 1]] for at in range(0, 8, 2)]


def runs(name):
    flat = mask_of(name).flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def rle(name):
    return {"size": [*SIZE], "counts": coco_mask.encode(np.asfortranarray(mask_of(name)))["counts"].decode()}


def document(segmentation=lambda name: [outline(name)], **entry):
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(BOXES, 1)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "iscrowd": 0, "segmentation": segmentation(name)}
            | entry
            for number, name in enumerate(BOXES, 1)
        ],
    }


def written(tmp_path, content):
    Image.fromarray(np.arange(3 * SIZE[0] * SIZE[1], dtype=np.uint32).astype(np.uint8).reshape(*SIZE, 3)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "out.json").unlink(missing_ok=True)
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path / "train.json"


def assert_exact(tmp_path, capsys, content, said=()):
    place = written(tmp_path, content)
    assert main(["lint", str(place)]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    for words in said:
        assert words in out
    assert main(["convert", str(place), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    names = {one["id"]: one["name"] for one in found["categories"]}
    masks = {names[one["category_id"]]: coco_mask.decode(one["segmentation"]) for one in found["annotations"]}
    assert masks.keys() == BOXES.keys()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, mask_of(name))


SHAPES = {
    "one list too many": lambda name: [[outline(name)]],
    "points in one list too many": lambda name: [[points(name)]],
    "points as objects": lambda name: [[{"x": x, "y": y} for x, y in points(name)]],
    "numbers as texts": lambda name: [[str(number) for number in outline(name)]],
    "parts as texts": lambda name: [json.dumps(outline(name))],
    "an empty part": lambda name: [outline(name), None],
    "an object of Python as a text": lambda name: repr(rle(name)),
    "runs as a text": lambda name: {"size": [*SIZE], "counts": " ".join(map(str, runs(name)))},
    "runs as a list in a text": lambda name: {"size": [*SIZE], "counts": str(runs(name))},
    "no size": lambda name: {"counts": rle(name)["counts"]},
    "a size as a text": lambda name: rle(name) | {"size": str(SIZE)},
    "several RLEs": lambda name: [rle(name), rle(name)],
    "kwcoco": lambda name: {"exterior": points(name), "interiors": []},
    "kwcoco, several": lambda name: [{"exterior": points(name), "interiors": []}],
}


@pytest.mark.parametrize("spelling", SHAPES)
def test_shapes_of_one_meaning(tmp_path, capsys, spelling):
    assert_exact(tmp_path, capsys, document(SHAPES[spelling]))


def test_holes_of_kwcoco_are_cut_out(tmp_path, capsys):
    x, y = BOXES["crate"][:2]
    hole = [[x + 2, y + 2], [x + 5, y + 2], [x + 5, y + 6], [x + 2, y + 6]]
    island = [[x + 3, y + 3], [x + 4, y + 3], [x + 4, y + 4], [x + 3, y + 4]]
    several = [{"exterior": points("crate"), "interiors": [hole]}, {"exterior": island, "interiors": []}]
    place = written(tmp_path, document(lambda name: several if name == "crate" else [outline(name)]))
    assert main(["convert", str(place), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    wanted = mask_of("crate")
    wanted[y + 2 : y + 6, x + 2 : x + 5] = 0
    wanted[y + 3, x + 3] = 1
    found = json.loads((tmp_path / "out.json").read_text())["annotations"][1]["segmentation"]
    np.testing.assert_array_equal(coco_mask.decode(found), wanted)


def columns(entries):
    """As pandas' ``to_json()`` writes a table."""
    return {name: {str(at): entry.get(name) for at, entry in enumerate(entries)} for name in entries[0]}


def split(entries):
    """As ``to_json(orient="split")`` does."""
    return {"columns": [*entries[0]], "index": [], "data": [[*entry.values()] for entry in entries]}


def by_id(entries):
    return {str(entry["id"]): {name: entry[name] for name in entry if name != "id"} for entry in entries}


@pytest.mark.parametrize("layout", [columns, split, by_id])
def test_lists_that_are_tables_or_objects_by_id(tmp_path, capsys, layout):
    assert_exact(tmp_path, capsys, {part: layout(entries) for part, entries in document().items()})


def test_categories_by_name_alone_as_texts_and_as_numbers(tmp_path, capsys):
    assert_exact(tmp_path, capsys, document() | {"categories": {"1": "ball", "2": "crate"}})
    content = document()
    for one, name in zip([*content["categories"], *content["annotations"]], [*BOXES, *BOXES], strict=True):
        one["id" if "name" in one else "category_id"] = f"class-{name}"
    assert_exact(tmp_path, capsys, content, ["ids of categories are texts (class-ball, class-crate)"])
    content = document()
    content["categories"][0]["name"] = 7
    place = written(tmp_path, content)
    assert main(["convert", str(place), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    assert [one["name"] for one in json.loads((tmp_path / "out.json").read_text())["categories"]] == ["7", "crate"]


def test_flags_as_words_and_sizes_of_minus_one(tmp_path, capsys):
    assert_exact(tmp_path, capsys, document(iscrowd="False"))
    content = document()
    content["images"][0] |= {"height": -1, "width": -1}
    assert_exact(tmp_path, capsys, content, ["1 of 1 images have no height and width: those of their files are taken"])


def test_annotation_ids_of_label_studio_are_no_fault(tmp_path, capsys):
    """Label Studio counts them from 0, datumaro from 1 in each image; training reads none."""
    content = document(id=0)
    place = written(tmp_path, content)
    assert main(["lint", str(place)]) == 0
    out = capsys.readouterr().out
    assert "note    annotation-id-zero: 2" in out
    assert "note    duplicate-annotation-id: 1" in out
    assert "fault" not in out.replace("nothing that ruins", "")


def test_an_image_that_is_refused_is_one_finding(tmp_path, capsys):
    content = document()
    content["images"][0]["height"] = "high"
    assert main(["lint", str(written(tmp_path, content))]) == 1
    out = capsys.readouterr().out
    assert "images[0]: needs 'height' and 'width' in pixels" in out
    assert "unlisted-image" not in out


def test_swapped_sizes_and_shares_are_called_so(tmp_path, capsys):
    content = document()
    content["images"][0] |= {"height": SIZE[1], "width": SIZE[0]}
    assert main(["lint", str(written(tmp_path, content))]) == 1
    said = "has 32 x 24 pixels, its annotations are for 24 x 32: height and width are swapped"
    assert said in capsys.readouterr().out
    place = written(tmp_path, document(lambda name: [[number / 32 for number in outline(name)]]))
    assert main(["lint", str(place)]) == 1
    out = capsys.readouterr().out
    assert "fault   invalid-mask: 2" in out
    assert "its coordinates are all 0 to 1, most likely shares of the image; COCO's are pixels" in out
