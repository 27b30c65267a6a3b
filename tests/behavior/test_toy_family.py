"""One file in ``models/families`` is all that a new architecture needs, up to the rows of ``m2f-batch segment``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import PROJECT
from PIL import Image
from support.engines import rows_of
from support.toy_family import TOY, save_toy_model

from m2f_batch.vision.masks.rle import decode_mask


def test_a_model_of_a_family_that_is_one_new_file_labels_images(tmp_path: Path) -> None:
    package = shutil.copytree(
        PROJECT / "m2f_batch", tmp_path / "code" / "m2f_batch", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "models" / "families" / "toy.py").write_text(TOY)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 40:] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "half.png")
    start = [sys.executable, "-c", "import sys; from m2f_batch.cli import main; sys.exit(main())"]
    places = [str(tmp_path / "images"), str(tmp_path / "run"), "--model", str(save_toy_model(tmp_path / "model"))]
    done = subprocess.run(
        [*start, "segment", *places],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "semantic (inferred from the model), 2 labels" in done.stdout
    (row,) = rows_of(tmp_path / "run")
    found = {segment["category"]: decode_mask(segment["counts"], (64, 96)) for segment in row["segments"]}
    assert found.keys() == {"dark", "bright"}
    assert np.array_equal(found["bright"], pixels[:, :, 0] == 255) and np.array_equal(found["dark"], ~found["bright"])
