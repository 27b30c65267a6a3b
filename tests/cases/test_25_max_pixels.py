"""Case 25: the cap of pixels has a key in training, and each command's message names its own."""

import json
import shutil

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.hand_made import Picture, make_run

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.errors import RunError, UsageError
from m2f_batch.train.data.samples import make_sample
from m2f_batch.train.loop.validation import validate
from m2f_batch.train.start.job import plan_job

SIZE = (72, 96)  # height, width: 6,912 pixels


def recipe_and_rows(place, **options):
    flags = {"data.train": str(place), "output.uri": f"{place}.out", "train.steps": 1, "augment.crop_size": 96}
    job = plan_job(load_config(FinetuneConfig, flags=flags | options))
    return job.recipe(tuple(range(len(job.train.categories)))), [*job.train.rows()]


def test_the_case_is_refused_with_the_option_that_is_a_key_of_training(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "25-over-200-megapixels", tmp_path / "case")
    assert main(["lint", str(folder / "train.json")]) == 1
    said = capsys.readouterr().out
    assert "fault   unreadable-image: 1\n" in said
    assert "15000 x 14000 = 210000000 pixels are more than the cap of 200000000 (--max-pixels)" in said
    recipe, rows = recipe_and_rows(folder / "train.json")
    with pytest.raises(RunError, match=r"big.png cannot be used .*200000000 \(data.max_pixels\)"):
        make_sample(rows[0], 0, recipe)
    recipe, rows = recipe_and_rows(folder / "train.json", **{"data.max_pixels": 210_000_000})
    assert (recipe.max_pixels, rows[0]["width"]) == (210_000_000, 15000)
    assert (
        main(["convert", str(folder / "train.json"), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    )


@pytest.fixture
def coco(tmp_path):
    Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "a.png")
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 40, 5, 40, 40, 5, 40]], "area": 1225}
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    tree = {
        "images": [image],
        "annotations": [shape | {"bbox": [5, 5, 35, 35]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(tree))
    return tmp_path / "train.json"


@pytest.mark.parametrize(("most", "code"), [(6911, 1), (6912, 0)])
def test_the_key_decides_in_lint_and_training(most, code, coco, capsys):
    assert main(["lint", str(coco), "--max-pixels", str(most)]) == code
    assert (f"the cap of {most} (--max-pixels)" in capsys.readouterr().out) == bool(code)
    recipe, rows = recipe_and_rows(coco, **{"data.max_pixels": most})
    if code:
        with pytest.raises(RunError, match=rf"the cap of {most} \(data.max_pixels\)"):
            make_sample(rows[0], 0, recipe)
    else:
        assert make_sample(rows[0], 0, recipe).labels.tolist() == [0]


@pytest.fixture
def masks(tmp_path):
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "photos/a.jpg")
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / "masks/a.png")
    return tmp_path


def test_convert_and_evaluate_name_their_own_option(masks, capsys):
    """Masks count as images do: Pillow's own limit of 179 million pixels plays no part."""
    folder, photos = str(masks / "masks"), str(masks / "photos")
    out = str(masks / "out.json")
    convert = ["convert", folder, out, "--from", "semantic-png", "--to", "coco", "--images", photos]
    assert main([*convert, "--max-pixels", "6911"]) == 2
    assert "96 x 72 = 6912 pixels are more than the cap of 6911 (--max-pixels)" in capsys.readouterr().err
    assert main([*convert, "--max-pixels", "6912"]) == 0
    picture = Picture(f"{photos}/a.jpg", SIZE, [(1, 0.9, np.ones(SIZE, bool))])
    run = make_run(masks / "run", [[picture]], task="semantic", input_uri=photos).uri
    evaluate = ["evaluate", run, "--ground-truth", folder, "--images", photos, "--format", "semantic-png"]
    capsys.readouterr()
    assert main([*evaluate, "--max-pixels", "6911"]) == 2
    assert "the cap of 6911 (--max-pixels)" in capsys.readouterr().err
    assert main([*evaluate, "--max-pixels", "6912"]) == 0


def test_yolo_and_labelme_read_sizes_under_the_cap(tmp_path, capsys):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    points = [[5, 5], [40, 5], [40, 40]]
    document = {"imagePath": "a.png", "shapes": [{"label": "a", "points": points}]}  # and no size
    (tmp_path / "images/a.json").write_text(json.dumps(document))
    for place, form in ((tmp_path / "data.yaml", "yolo"), (tmp_path / "images", "labelme")):
        assert main(["lint", str(place), "--format", form, "--max-pixels", "6911"]) == 1
        assert "fault   missing-image: 1\n" in (said := capsys.readouterr().out)
        assert "(--max-pixels)" in said
        assert main(["lint", str(place), "--format", form, "--max-pixels", "6912"]) == 0


def test_validation_names_the_keys_of_training(coco):
    """It runs the code of segment and evaluate, whose messages name input.max_pixels and --ground-truth."""
    dataset = read_dataset("coco", str(coco))
    labels = dict.fromkeys(range(6), 0)
    with pytest.raises(RunError, match=r"data.val: .*a.png cannot be used .*the cap of 6911 \(data.max_pixels\)"):
        validate(DEMO_MODEL, dataset, "instance", labels, "cpu", 1, 6911)
    Image.new("RGB", (50, 40)).save(coco.parent / "a.png")
    with pytest.raises(RunError, match=r"^data.val: .*a.png is 40x50, but its annotations are of 72x96"):
        validate(DEMO_MODEL, dataset, "instance", labels, "cpu", 1, 6912)


@pytest.mark.parametrize("most", ["0", "-5"])
def test_a_cap_that_is_none(most, coco, capsys):
    for command in (["lint", str(coco)], ["convert", str(coco), f"{coco}.out", "--from", "coco", "--to", "coco"]):
        assert main([*command, "--max-pixels", most]) == 2
        assert "max" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"data\.max_pixels"):
        recipe_and_rows(coco, **{"data.max_pixels": int(most)})
