"""COCO instances and COCO panoptic files made by hand, against pycocotools; every fault that a reader stops at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from m2f_batch.datasets.dataset import DATASET_SCHEMA, Dataset
from m2f_batch.datasets.findings import KINDS, NOTES, Finding
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import UsageError
from m2f_batch.messages.notes import notes_to
from m2f_batch.vision.masks.rle import decode_mask

HEIGHT, WIDTH = 12, 17
TRIANGLE = [1.5, 2.0, 14.2, 3.3, 7.0, 11.1]
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


def masks_of(row: dict[str, Any]) -> list[np.ndarray]:
    return [decode_mask(segment["counts"], (row["height"], row["width"])) for segment in row["segments"]]


def tree(**changes: Any) -> dict[str, Any]:
    """Two images, three categories with gaps, one annotation."""
    entry = {"id": 1, "image_id": 5, "category_id": 17, "segmentation": [TRIANGLE], "iscrowd": 0}
    whole = {
        "images": [
            {"id": 5, "file_name": "a/x.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "y.jpg", "height": 3, "width": 4},
        ],
        "categories": [
            {"id": 3, "name": "ball"},
            {"id": 17, "name": " crate "},
            {"id": 90, "name": "sky", "isthing": 0},
        ],
        "annotations": [entry],
    }
    return whole | changes


def entry(**changes: Any) -> dict[str, Any]:
    return tree()["annotations"][0] | changes


def written(folder: Path, document: Any) -> str:
    (folder / "set.json").write_text(json.dumps(document))
    return str(folder / "set.json")


def read(folder: Path, document: Any, **options: Any) -> Dataset:
    return read_dataset("coco", written(folder, document), **options)


def test_rows_have_the_schema_the_files_ids_and_absolute_uris(tmp_path):
    dataset = read(tmp_path, tree())
    assert dataset.table.schema == DATASET_SCHEMA
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [
        (3, "ball", True),
        (17, "crate", True),
        (90, "sky", False),
    ]
    first, second = dataset.rows()
    assert (first["image_id"], first["uri"]) == (5, f"{tmp_path}/a/x.jpg")
    assert first["segments"][0]["category"] == 1
    assert first["segments"][0]["iscrowd"] is False
    assert (second["image_id"], second["height"], second["width"], second["segments"]) == (2, 3, 4, [])
    assert first["ignored"] is None


def test_images_are_looked_for_in_their_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    dataset = read(tmp_path, tree(), images=str(tmp_path / "photos"))
    assert dataset.table["uri"].to_pylist() == [f"{tmp_path}/photos/a/x.jpg", f"{tmp_path}/photos/y.jpg"]


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE, written down plainly."""
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_mask_is_that_of_pycocotools(tmp_path, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((HEIGHT, WIDTH)) < 0.4
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    shapes: list[Any] = [
        [TRIANGLE],
        [TRIANGLE, SQUARE],  # parts that overlap
        [(rng.random(14) * 30 - 8).tolist()],  # out of the image on all sides
        {"size": [HEIGHT, WIDTH], "counts": runs_of(mask)},
        {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()},
    ]
    entries = [entry(id=i + 1, segmentation=shape, iscrowd=int(i == 3)) for i, shape in enumerate(shapes)]
    dataset = read(tmp_path, tree(annotations=entries))
    oracle = COCO(str(tmp_path / "set.json"))
    row = next(dataset.rows())
    expected = [oracle.annToMask(annotation).astype(bool) for annotation in oracle.loadAnns(oracle.getAnnIds(5))]
    for ours, theirs in zip(masks_of(row), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for segment, theirs in zip(row["segments"], expected, strict=True):  # and spelled as pycocotools spells it
        assert segment["counts"] == coco_mask.encode(np.asfortranarray(theirs.astype(np.uint8)))["counts"].decode()
    assert [segment["iscrowd"] for segment in row["segments"]] == [False, False, False, True, False]


def test_rle_with_empty_runs_is_respelled(tmp_path):
    counts = [3, 2, 0, 4, HEIGHT * WIDTH - 9, 0]
    dataset = read(tmp_path, tree(annotations=[entry(segmentation={"size": [HEIGHT, WIDTH], "counts": counts})]))
    mask = np.zeros(HEIGHT * WIDTH, bool)
    mask[3:9] = True
    code = coco_mask.encode(np.asfortranarray(mask.reshape(HEIGHT, WIDTH, order="F").astype(np.uint8)))
    assert next(dataset.rows())["segments"][0]["counts"] == code["counts"].decode()


def one(**changes: Any) -> dict[str, Any]:
    return {"annotations": [entry(**changes)]}


FAULTS = [
    (
        "unknown-category",
        {"annotations": [entry(category_id=18)]},
        r"annotations\[0\] \(id 1\): category_id 18 .* 3 to 90",
    ),
    ("unknown-category", one(category_id="crate"), "category_id 'crate'"),
    ("unlisted-image", one(image_id=6), "image_id 6 is not in 'images'"),
    ("mask-size", one(segmentation={"size": [17, 12], "counts": "x"}), r"\[17, 12\].*\[12, 17\]"),
    ("invalid-mask", one(segmentation={"size": [12, 17], "counts": [3, 4]}), "7 pixels.*204"),
    (
        "invalid-mask",
        {"annotations": [entry(segmentation={"size": [12, 17], "counts": "é"})]},
        "compressed RLE is none",
    ),
    (
        "invalid-mask",
        {"annotations": [entry(segmentation={"size": [12, 17], "counts": "P"})]},
        "compressed RLE is none",
    ),
    ("invalid-mask", one(segmentation={"size": [12, 17], "counts": [-1, 205]}), "run lengths"),
    ("invalid-mask", one(segmentation=[[1, 2, 3, 4]]), "3 points, not 4 numbers"),
    ("invalid-mask", one(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "not 7 numbers"),
    ("invalid-mask", one(segmentation=[[[1, 2], [3, 4], ["five", 6]]]), "flat list of numbers"),
    ("invalid-mask", one(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "within"),
    ("no-mask", one(segmentation=[]), "no 'segmentation'"),
    (
        "no-mask",
        one(segmentation=None, bbox=[1, 1, 2, 2]),
        "no 'segmentation'",
    ),
    ("malformed", one(iscrowd=2), "iscrowd is 2"),
    ("malformed", {"annotations": [7]}, "no JSON object"),
    ("missing-image", {"images": [{"id": 5, "file_name": "x.jpg"}]}, "has no 'height' and 'width', .*no such file"),
    ("malformed", {"images": [tree()["images"][0] | {"height": 12.5}]}, r"images\[0\]: needs 'height' and 'width'"),
    ("malformed", {"images": [tree()["images"][0] | {"width": None}]}, r"images\[0\]: needs 'height' and 'width'"),
    ("malformed", {"images": [{"id": 5.5, "file_name": "x.jpg"}]}, "integer 'id'"),
    ("malformed", {"images": [{"id": 5}]}, "text 'file_name'"),
    ("malformed", {"images": [tree()["images"][0] | {"file_name": "\ud800"}]}, "text 'file_name'"),
    ("malformed", {"images": [tree()["images"][0] | {"width": 2**31}]}, "needs 'height' and 'width'"),
    ("malformed", {"images": [tree()["images"][0] | {"height": 2**20, "width": 2**20}]}, "needs 'height' and 'width'"),
    ("malformed", {"categories": [{"id": -1, "name": "x"}]}, "0 or more"),
    ("malformed", {"categories": [{"id": 1, "name": " "}]}, "text 'name'"),
    ("duplicate-image", {"images": tree()["images"] + [tree()["images"][0] | {"file_name": "z"}]}, "id 5 is also"),
    ("duplicate-category", {"categories": tree()["categories"] + [{"id": 3, "name": "x"}]}, "id 3 is that of 'ball'"),
    ("nothing-to-learn", {"annotations": []}, "none of 2 images has an object"),
    ("nothing-to-learn", one(iscrowd=1), r"all 1 masks are crowds .*data.crowd_as_object: true"),
    ("nothing-to-learn", one(segmentation=[[90, 90, 95, 90, 95, 95]]), "1 of 1 masks have no pixel"),
]


@pytest.mark.parametrize(("kind", "changes", "text"), FAULTS)
def test_a_fault_stops_the_reader_or_is_collected(tmp_path, kind, changes, text):
    with pytest.raises(UsageError, match=text) as raised:
        read(tmp_path, tree(**changes))
    assert str(raised.value).startswith(f"{tmp_path}/set.json: ")
    found: list[Finding] = []
    read(tmp_path, tree(**changes), report=found.append)
    assert found[0].kind == kind
    assert kind in KINDS


def test_what_is_collected_is_left_out_and_the_rest_is_read(tmp_path):
    found: list[Finding] = []
    entries = [entry(), entry(id=2, category_id=4), entry(id=3, category_id=3)]
    dataset = read(tmp_path, tree(annotations=entries), report=found.append)
    assert [segment["category"] for segment in next(dataset.rows())["segments"]] == [1, 0]
    assert [(finding.kind, finding.where) for finding in found] == [
        ("unknown-category", f"{tmp_path}/set.json: annotations[1] (id 2)")
    ]


def test_annotation_ids_of_0_or_twice_are_a_note(tmp_path):
    found: list[Finding] = []
    entries = [entry(id=0), entry(id=4), entry(id=4)]
    read(tmp_path, tree(annotations=entries), report=found.append)
    assert [finding.kind for finding in found] == ["annotation-id"]
    assert "annotation-id" in NOTES
    heard: list[str] = []
    with notes_to(heard.append):
        assert next(read(tmp_path, tree(annotations=entries)).rows())["segments"][2]["category"] == 1
    assert heard == [f"note: {found[0]}"]
    assert "2 annotation ids are 0 or come twice (0, 4)" in heard[0]


@pytest.mark.parametrize("document", [[], {"images": []}, {"images": 3, "annotations": [], "categories": []}])
def test_what_is_no_coco_json(tmp_path, document):
    with pytest.raises(UsageError, match="is no COCO JSON: it has no list"):
        read(tmp_path, document)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match=r"data.train: .*nothing.json: no such file"):
        read_dataset("coco", str(tmp_path / "nothing.json"))
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(UsageError, match="is not valid JSON"):
        read_dataset("coco", str(tmp_path / "set.json"))
    with pytest.raises(UsageError, match="no such folder"):
        read(tmp_path, tree(), images=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"data.format: 'voc' is not known; allowed: coco, "):
        read_dataset("voc", "x")
    with pytest.raises(UsageError, match=r"data.ignore_index: only for instance-png and semantic-png, not for coco"):
        read(tmp_path, tree(), ignore_index=0)
    with pytest.raises(UsageError, match=r"data.train_masks: the format coco has no folder of masks"):
        read(tmp_path, tree(), masks=str(tmp_path))
    with pytest.raises(UsageError, match=r"data.do_reduce_labels: only for semantic-png"):
        read(tmp_path, tree(), do_reduce_labels=True)


# ---- panoptic


IDS = np.array([[0, 7, 7, 70000], [0, 7, 300, 70000], [300, 300, 300, 70000]])
INFOS = [
    {"id": 7, "category_id": 3, "iscrowd": 0},
    {"id": 300, "category_id": 90},
    {"id": 70000, "category_id": 17, "iscrowd": 1},
]


def panoptic(folder: Path, ids: np.ndarray = IDS, infos: Any = INFOS, **changes: Any) -> str:
    (folder / "set").mkdir(exist_ok=True)
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "set" / "y.png")
    annotations = [{"image_id": 2, "file_name": "y.png", "segments_info": infos}]
    return written(folder, tree(annotations=annotations, images=tree()["images"][1:]) | changes)


def test_panoptic_segments_and_void(tmp_path):
    dataset = read_dataset("coco-panoptic", panoptic(tmp_path))
    (row,) = dataset.rows()
    assert [(s["category"], s["iscrowd"]) for s in row["segments"]] == [(0, False), (2, False), (1, True)]
    for mask, number in zip(masks_of(row), (7, 300, 70000), strict=True):
        np.testing.assert_array_equal(mask, number == IDS)
    np.testing.assert_array_equal(decode_mask(row["ignored"], (3, 4)), IDS == 0)
    assert row["uri"] == f"{tmp_path}/y.jpg"


def test_a_panoptic_image_without_annotation_is_void(tmp_path):
    file = panoptic(tmp_path, images=tree()["images"])
    void, _ = read_dataset("coco-panoptic", file).rows()
    assert void["segments"] == []
    assert decode_mask(void["ignored"], (HEIGHT, WIDTH)).all()


PANOPTIC_FAULTS = [
    ("missing-segment", {"infos": [*INFOS, {"id": 8, "category_id": 3}]}, "segment 8 has no pixel"),
    ("unknown-value", {"infos": INFOS[:2]}, r"pixels of \[70000\]"),
    ("unknown-category", {"infos": [*INFOS[:2], {"id": 70000, "category_id": 4}]}, "segment 70000: category_id 4"),
    ("mask-size", {"ids": IDS.T}, r"size \[4, 3\], its image \[3, 4\]"),
    ("malformed", {"infos": [{"category_id": 3}]}, "integer 'id'"),
    ("malformed", {"infos": [INFOS[0] | {"iscrowd": 5}, *INFOS[1:]]}, "segment 7: iscrowd is 5"),
    ("unlisted-image", {"annotations": [{"image_id": 9, "file_name": "y.png", "segments_info": []}]}, "image_id 9"),
    ("unreadable-mask", {"annotations": [{"image_id": 2, "file_name": "z.png", "segments_info": []}]}, "no such file"),
]


@pytest.mark.parametrize(("kind", "changes", "text"), PANOPTIC_FAULTS)
def test_panoptic_faults(tmp_path, kind, changes, text):
    file = panoptic(tmp_path, **changes)
    with pytest.raises(UsageError, match=text):
        read_dataset("coco-panoptic", file)
    found: list[Finding] = []
    read_dataset("coco-panoptic", file, report=found.append)
    assert kind in {finding.kind for finding in found}


def test_a_panoptic_png_must_be_rgb(tmp_path):
    file = panoptic(tmp_path)
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "set" / "y.png")
    with pytest.raises(UsageError, match="a PNG of mode L with 8 bits; a panoptic PNG is RGB"):
        read_dataset("coco-panoptic", file)
    (tmp_path / "set" / "y.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(UsageError, match="cannot be read as PNG"):
        read_dataset("coco-panoptic", file)


def test_a_dataset_of_many_rows():
    """More rows than are Python objects at a time, in order."""
    from m2f_batch.datasets.dataset import Category, dataset_of

    rows = ({"image_id": i, "uri": f"/{i}", "height": 1, "width": 1, "segments": []} for i in range(10_000))
    dataset = dataset_of([Category(1, "x", True)], rows)
    assert dataset.table["image_id"].to_pylist() == [*range(10_000)]
    assert isinstance(dataset.table, pa.Table)
    assert sum(1 for _ in dataset.rows()) == 10_000


@pytest.mark.parametrize("count", [0, 3, 10_000])
def test_crowds_as_objects_changes_nothing_else(count):
    from m2f_batch.datasets.dataset import Category, dataset_of

    def row(number):
        segments = [{"category": k, "iscrowd": (number + k) % 2 == 0, "counts": "13"} for k in range(number % 3)]
        return {"image_id": number, "uri": f"/{number}", "height": 2, "width": 2, "segments": segments, "ignored": None}

    dataset = dataset_of([Category(k, str(k), True) for k in range(3)], map(row, range(count)))
    wanted = [row(number) for number in range(count)]
    for one in wanted:
        for segment in one["segments"]:
            segment["iscrowd"] = False
    for taken in (dataset, dataset_of(dataset.categories, [])):  # the empty one has no chunk
        objects = taken.crowds_as_objects()
        assert objects.table.schema == dataset.table.schema
        assert [*objects.rows()] == (wanted if taken is dataset else [])
    part = Dataset(dataset.categories, dataset.table.slice(1, 2)).crowds_as_objects()
    assert [*part.rows()] == wanted[1:3]
