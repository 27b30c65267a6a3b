"""Gives the parts photographs and annotations from beside the checkout, or drawn scenes without them."""

import io
import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lib.timing import PROJECT
from m2f_batch.demo.scenes import draw_scene

DATA = PROJECT.parent / "shared" / "data"
FOLDERS = ("coco_tiny/val2017", "coco_tiny/train2017", "coco128_panoptic_train/images")
ANNOTATIONS = "coco_tiny/annotations/instances_*.json"


def photographs(count: int) -> list[bytes]:
    """Return so many JPEG files: COCO's photographs, or drawn scenes of their size, repeated when there are too few."""
    paths = [path for folder in FOLDERS for path in sorted((DATA / folder).glob("*.jpg"))]
    if paths:
        return [path.read_bytes() for path in itertools.islice(itertools.cycle(paths), count)]
    scenes = (Image.fromarray(draw_scene(seed).image).resize((640, 480)) for seed in range(count))
    return [as_jpeg(scene) for scene in scenes]


def where_from() -> str:
    """One phrase for the tables."""
    return "COCO photographs" if DATA.exists() else "drawn scenes (no photographs beside this checkout)"


def as_jpeg(image: Image.Image) -> bytes:
    """Encoded as cameras do."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photographs(folder: Path, count: int) -> Path:
    """The photographs as files with names of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(photographs(count)):
        (folder / f"photo-{number:04d}.jpg").write_bytes(data)
    return folder


def object_masks(size_hw: tuple[int, int], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Masks of objects without end, bool [h, w], in random order: COCO's own, or blobs with COCO's areas."""
    rng = np.random.default_rng(seed)
    annotations = _annotations()
    while True:
        mask = _annotated(annotations, size_hw, rng) if annotations else _blob(size_hw, rng)
        if mask.any():
            yield mask


@cache
def _annotations() -> list[tuple[Any, int, int]]:
    found = []
    for path in sorted(DATA.glob(ANNOTATIONS)):
        tree = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in tree["images"]}
        found += [(a["segmentation"], *sizes[a["image_id"]]) for a in tree["annotations"] if not a["iscrowd"]]
    return found


def _annotated(
    annotations: list[tuple[Any, int, int]], size_hw: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """An annotated object at its place in its photograph, the photograph stretched to [h, w]."""
    from pycocotools import mask as coco_mask

    polygons, height, width = annotations[rng.integers(len(annotations))]
    scale = np.array([size_hw[1] / width, size_hw[0] / height])
    scaled = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, *size_hw))).astype(bool)


def _blob(size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a star-shaped blob. COCO's areas are about log-normal, with a median near 0.8 % of the image."""
    height, width = size_hw
    area = min(0.7, np.exp(rng.normal(np.log(0.008), 1.7))) * height * width
    y, x = np.mgrid[:height, :width]
    dy, dx = y - rng.uniform(0, height), x - rng.uniform(0, width)
    angle = np.arctan2(dy, dx * rng.uniform(0.5, 2))
    waves = sum(rng.normal(0, 0.25 / k) * np.sin(k * angle + rng.uniform(0, 6.28)) for k in range(1, 7))
    return np.hypot(dy, dx) <= np.sqrt(area / np.pi) * np.clip(1 + waves, 0.3, 2)
