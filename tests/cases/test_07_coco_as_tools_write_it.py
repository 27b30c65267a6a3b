"""Cases 07, 08, 12, 20, 26, 32 and 33: COCO JSONs as pandas, mmdetection, Roboflow, LIVECell and others write them."""

import json

import numpy as np
import pytest
from conftest import DEMO_MODEL
from pycocotools.coco import COCO

from m2f_batch.cli import main


def masks_of(place):
    """By file name and category name, the masks of a COCO JSON as pycocotools draws them."""
    coco = COCO(str(place))
    names = {one["id"]: one["name"] for one in coco.dataset["categories"]}
    found = {}
    for one in coco.dataset["annotations"]:
        found.setdefault((coco.imgs[one["image_id"]]["file_name"], names[one["category_id"]]), []).append(
            coco.annToMask(one)
        )
    return {key: np.stack(sorted(masks, key=lambda mask: mask.tobytes())) for key, masks in found.items()}


def converted(place, tmp_path):
    out = tmp_path / "out.json"
    assert main(["convert", str(place), str(out), "--from", "coco", "--to", "coco"]) == 0
    return out


def same(first, second):
    assert first.keys() == second.keys()
    for key, masks in first.items():
        np.testing.assert_array_equal(masks, second[key])


def lint(capsys, place, *options):
    code = main(["lint", str(place), *options])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    "file",
    [
        "07-coco-pandas-floats/float_sizes.json",
        "07-coco-pandas-floats/float_ids.json",
        "07-coco-pandas-floats/string_ids.json",
        "07-coco-pandas-floats/iscrowd_null.json",
        "07-coco-pandas-floats/iscrowd_false.json",
        "32-livecell-dict-annotations/train.json",
        "33-coco-no-size/train.json",
        "26-one-image-odd-names/train.json",
    ],
)
def test_what_can_mean_one_thing_only_is_read_as_that(shared_cases, tmp_path, capsys, file):
    place = shared_cases / file
    code, said = lint(capsys, place)
    assert (code, "fault" in said) == (0, False)
    # as pycocotools reads it once numbers are numbers, and lists are lists
    document = json.loads(place.read_text())
    if isinstance(document["annotations"], dict):
        document["annotations"] = [*document["annotations"].values()]
    for image in document["images"]:
        image |= {"height": 72, "width": 96}
    for one in document["annotations"]:
        one["iscrowd"] = 0
    (tmp_path / "plain.json").write_text(json.dumps(document))
    written = converted(place, tmp_path)
    same(masks_of(written), masks_of(tmp_path / "plain.json"))
    images = json.loads(written.read_text())["images"]
    assert [(type(image["id"]), image["height"], image["width"]) for image in images] == [(int, 72, 96)] * len(images)


def test_what_is_read_otherwise_is_said(shared_cases, capsys):
    _, said = lint(capsys, shared_cases / "07-coco-pandas-floats" / "string_ids.json")
    assert "ids of images are texts (img_1, img_2, img_3, ...): they are numbered 1, 2, 3, ..." in said
    _, said = lint(capsys, shared_cases / "33-coco-no-size" / "train.json")
    assert "4 of 4 images have no height and width: those of their files are taken" in said


def test_what_can_mean_several_things_is_a_finding(shared_cases, tmp_path, capsys):
    document = json.loads((shared_cases / "07-coco-pandas-floats" / "float_sizes.json").read_text())
    document["images"][0]["height"] = 72.5
    document["annotations"][5]["iscrowd"] = "maybe"
    (tmp_path / "set.json").write_text(json.dumps(document))
    code, said = lint(capsys, tmp_path / "set.json", "--images", str(shared_cases / "07-coco-pandas-floats"))
    assert code == 1
    assert f"{tmp_path}/set.json: images[0]: needs 'height' and 'width' in pixels" in said
    assert "annotations[5] (id 6): iscrowd is 'maybe'; allowed: 0, 1" in said


def test_what_mmdetection_leaves_out_counts_for_nothing(shared_cases, tmp_path, capsys):
    place = shared_cases / "08-coco-ignore-flag" / "train.json"
    code, said = lint(capsys, place)
    assert code == 0
    assert "4 annotations have 'ignore', with which mmdetection leaves them out: their pixels count for nothing" in said
    written = json.loads(converted(place, tmp_path).read_text())
    assert len(written["annotations"]) == 8
    coco = COCO(str(place))
    for image in written["images"]:
        ours = COCO.annToMask(coco, {"image_id": image["id"], "segmentation": image["ignored"]})
        theirs = [one for one in coco.dataset["annotations"] if one["image_id"] == image["id"] and one.get("ignore")]
        np.testing.assert_array_equal(ours, coco.annToMask(theirs[0]))


def test_an_objects_pixels_are_not_ignored_with_its_neighbor(shared_cases, tmp_path):
    place = shared_cases / "08-coco-ignore-flag"
    document = json.loads((place / "train.json").read_text())
    ignored, other = document["annotations"][1], document["annotations"][0]
    ignored["segmentation"] = [[0, 0, 60, 0, 60, 50, 0, 50]]
    document["annotations"] = [other, ignored]
    (tmp_path / "set.json").write_text(json.dumps(document))
    out = tmp_path / "out.json"
    options = ["--from", "coco", "--to", "coco", "--images", str(place)]
    assert main(["convert", str(tmp_path / "set.json"), str(out), *options]) == 0
    coco, image = COCO(str(tmp_path / "set.json")), json.loads(out.read_text())["images"][0]
    ours = coco.annToMask({"image_id": image["id"], "segmentation": image["ignored"]})
    np.testing.assert_array_equal(ours, coco.annToMask(ignored) & ~coco.annToMask(other) & 1)


def test_of_two_categories_of_one_name_the_annotated_one_is_meant(shared_cases, tmp_path, capsys):
    place = shared_cases / "12-roboflow-coco-supercategory" / "_annotations.coco.json"
    code, said = lint(capsys, place)
    assert code == 0
    text = "categories without an annotation, whose name an annotated one has, are left out: 0 ('ball')"
    assert f"{place}: {text}" in said
    written = json.loads(converted(place, tmp_path).read_text())
    assert [one["id"] for one in written["categories"]] == [1, 2, 3]
    same(masks_of(tmp_path / "out.json"), masks_of(place))
    capsys.readouterr()
    sets = ["--set", "train.steps=1", "--set", "train.batch_size=1", "--set", "augment.crop_size=64"]
    options = ["--model", str(DEMO_MODEL), "--task", "instance", *sets]
    assert main(["finetune", str(place), str(tmp_path / "model"), *options]) == 0
    assert "data    4 images, 3 categories, instance: 12 objects, 0 crowds, 0 empty images" in capsys.readouterr().out


def test_two_annotated_categories_of_one_name_are_a_fault(shared_cases, tmp_path, capsys):
    place = shared_cases / "12-roboflow-coco-supercategory"
    document = json.loads((place / "_annotations.coco.json").read_text())
    document["annotations"][0]["category_id"] = 0
    (tmp_path / "set.json").write_text(json.dumps(document))
    code, said = lint(capsys, tmp_path / "set.json", "--images", str(place))
    assert code == 1
    assert "fault   duplicate-category-name: 1" in said


@pytest.mark.parametrize("file", ["train.json", "empty_part.json"])
def test_a_part_of_two_points_is_dropped_and_counted_as_detectron2_drops_it(shared_cases, tmp_path, capsys, file):
    place = shared_cases / "20-coco-one-short-polygon" / file
    code, said = lint(capsys, place)
    assert code == 0
    text = f"1 parts of masks have fewer than 3 points, so no area, and are left out ({place}: annotations[1])"
    assert text in said
    document = json.loads(place.read_text())
    for one in document["annotations"]:  # detectron2's load_coco_json
        one["segmentation"] = [poly for poly in one["segmentation"] if len(poly) % 2 == 0 and len(poly) >= 6]
    (tmp_path / "theirs.json").write_text(json.dumps(document))
    same(masks_of(converted(place, tmp_path)), masks_of(tmp_path / "theirs.json"))


def test_an_object_without_a_whole_part_is_a_fault(shared_cases, tmp_path, capsys):
    place = shared_cases / "20-coco-one-short-polygon"
    document = json.loads((place / "train.json").read_text())
    document["annotations"][1]["segmentation"] = [[10.0, 10.0, 11.0, 10.0], []]
    (tmp_path / "set.json").write_text(json.dumps(document))
    code, said = lint(capsys, tmp_path / "set.json", "--images", str(place))
    assert code == 1
    assert "annotations[1] (id 2): a polygon needs x and y of at least 3 points, not 4 numbers" in said


def test_masks_without_a_pixel_are_never_written(shared_cases, tmp_path, capsys):
    place = shared_cases / "20-coco-one-short-polygon"
    document = json.loads((place / "train.json").read_text())
    document["annotations"][1]["segmentation"] = [[200, 10, 210, 10, 210, 20, 200, 20]]  # beside the image
    (tmp_path / "set.json").write_text(json.dumps(document))
    options = ["--from", "coco", "--to", "coco", "--images", str(place), "--split", "0.5"]
    assert main(["convert", str(tmp_path / "set.json"), str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert f"SRC: 1 masks have no pixel ({place}/img0.jpg: 'crate'); m2f-batch lint names them: draw or remove" in said
    assert not [*tmp_path.glob("out/*")]
