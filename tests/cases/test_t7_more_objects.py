"""Case T7: more objects than queries: the plan and the end name the key, and a value that is enough."""

import json

import numpy as np
import pytest
from PIL import Image
from support.finetunes import config_file

from m2f_batch.cli import main

MOST = 23  # objects of the fullest image, for the small model's 16 queries


@pytest.fixture
def crowded(tmp_path):
    """Three images with 2, 18 and 23 squares, one of each a crowd, which takes no query."""
    trees = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number, count in enumerate((2, 18, MOST), start=1):
        pixels = np.zeros((64, 64, 3), np.uint8)
        trees["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for place in range(count + 1):
            y, x = divmod(place, 5)
            pixels[y * 12 + 1 : y * 12 + 11, x * 12 + 1 : x * 12 + 11] = 40 + 8 * place
            square = {"bbox": [x * 12 + 1, y * 12 + 1, 10, 10], "area": 100, "iscrowd": int(place == count)}
            left, top = square["bbox"][:2]
            outline = [[left, top, left + 10, top, left + 10, top + 10, left, top + 10]]
            trees["annotations"].append(
                {"id": len(trees["annotations"]) + 1, "image_id": number, "category_id": 1, **square}
                | {"segmentation": outline}
            )
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "all.json").write_text(json.dumps(trees))
    return tmp_path / "all.json"


def test_a_value_that_is_enough(crowded, tmp_path, capsys):
    config = json.loads(config_file(tmp_path, tmp_path, steps=2, batch_size=3, ema=None).read_text())
    config |= {"data": {"format": "coco", "train": str(crowded)}}
    config["augment"]["scale"] = [1.0, 1.0]
    for key in ("evaluate_every", "ema"):
        del config["train"][key]
    file = tmp_path / "own.json"
    file.write_text(json.dumps(config))
    command = ["finetune", "--config", str(file), "--set", f"output.uri={tmp_path / 'tuned'}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    (plan,) = [line for line in said.splitlines() if line.startswith("warning more-objects-than-queries: 2 (")]
    assert "has 18 objects, the model 16 queries" in plan
    assert ", and model.config.num_queries=30 is enough for every image; m2f-batch lint shows all" in plan
    (end,) = [line for line in said.splitlines() if "left out of steps" in line]
    left_out = 2 * (18 - 16 + MOST - 16)  # in each of two steps
    assert end == (
        f"warning {left_out} objects were left out of steps, in images with more than the model's 16 queries; "
        "model.config.num_queries=30 is enough for every image"
    )
    other = [*command[:-1], f"output.uri={tmp_path / 'enough'}", "--set", "model.config.num_queries=30"]
    assert main(other) == 0
    said = capsys.readouterr().out
    assert "queries" not in said and "left out" not in said
