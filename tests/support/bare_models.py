"""Models whose image processor neither rescales nor normalizes, and what is said of them."""

import json
import shutil
from pathlib import Path
from typing import Any

from conftest import DEMO_MODEL

BARE = {"do_rescale": False, "do_normalize": False}
DOUBT = (
    "the image processor of the checkpoint neither rescales nor normalizes: the model is given values from 0 to 255; "
    "if it was trained on normalized pixels, its labels are worth nothing: give what it was trained with, "
    "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]} as a rule"
)


def model_with(folder: Path, **processor: Any) -> Path:
    """The demo model with other settings of its image processor."""
    shutil.copytree(DEMO_MODEL, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | processor))
    return folder
