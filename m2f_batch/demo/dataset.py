"""Writes the drawn scenes as a COCO panoptic dataset, which the demo model is trained and measured on.

    python -m m2f_batch.demo.dataset DIR --train 4000 --val 200

DIR/train.json, DIR/train/ and DIR/val.json, DIR/val/ (images/ and masks/).
"""

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS, TRAIN_SEED, VAL_SEED, draw_scene


def write_dataset(folder: Path, train: int, val: int) -> None:
    """Draw ``train`` and ``val`` scenes and write them with their panoptic masks."""
    for name, first, count in (("train", TRAIN_SEED, train), ("val", VAL_SEED, val)):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            entries = [*pool.map(partial(_write_scene, folder / name), range(first, first + count), chunksize=32)]
        (folder / f"{name}.json").write_text(json.dumps(_tree(entries)))


def _write_scene(folder: Path, seed: int) -> dict[str, Any]:
    """Write one scene, and return its segments."""
    scene = draw_scene(seed)
    name = f"{seed:07d}.png"
    Image.fromarray(scene.image).save(folder / "images" / name)
    ids = scene.owner.astype(np.int64) + 1  # 0 is void
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "masks" / name)
    areas = np.bincount(ids.ravel(), minlength=len(scene.category_ids) + 1)[1:]
    segments = [
        {"id": number + 1, "category_id": category + 1, "area": int(area), "iscrowd": 0}
        for number, (category, area) in enumerate(zip(scene.category_ids, areas, strict=True))
        if area
    ]
    return {"seed": seed, "file_name": name, "size": ids.shape, "segments": segments}


def _tree(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    entries = [*entries]
    return {
        "images": [
            {"id": number, "file_name": entry["file_name"], "height": entry["size"][0], "width": entry["size"][1]}
            for number, entry in enumerate(entries, start=1)
        ],
        "annotations": [
            {"image_id": number, "file_name": entry["file_name"], "segments_info": entry["segments"]}
            for number, entry in enumerate(entries, start=1)
        ],
        "categories": [
            {"id": label + 1, "name": name, "isthing": int(label not in STUFF_IDS)}
            for label, name in enumerate(CATEGORIES)
        ],
    }


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--val", type=int, default=200)
    options = parser.parse_args()
    write_dataset(options.folder, options.train, options.val)


if __name__ == "__main__":
    main()
