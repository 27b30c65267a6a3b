"""Draws four scenes of the demo with what the bundled model finds in them.

python -m benchmarks.pictures.scenes
"""

import sys

import numpy as np
from PIL import Image

from benchmarks.pictures.drawing import save_image
from m2f_batch.demo.scenes import MODEL, SHOW_SEED, STUFF_IDS, draw_scene
from m2f_batch.vision.overlay import draw_overlay
from m2f_batch.vision.segmenter import Segmenter

NUMBERS = (9, 12, 21, 23)  # of the demo's scenes, all of 192x256 pixels
GAP = 8


def main() -> int:
    """Label the scenes and put them side by side."""
    images = [draw_scene(SHOW_SEED + number).image for number in NUMBERS]
    found = Segmenter.from_pretrained(str(MODEL), task="panoptic")(images)
    drawn = [draw_overlay(image, segments, STUFF_IDS) for image, segments in zip(images, found, strict=True)]
    height, width = drawn[0].shape[:2]
    row = np.full((height, len(drawn) * (width + GAP) - GAP, 3), 255, np.uint8)
    for at, picture in enumerate(drawn):
        row[:, at * (width + GAP) : at * (width + GAP) + width] = picture
    save_image(Image.fromarray(row), "scenes.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
