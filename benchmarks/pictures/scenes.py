"""Draws four scenes of the demo with what the bundled model finds in them.

python -m benchmarks.pictures.scenes
"""

import sys

from PIL import Image

from benchmarks.pictures.drawing import save_image
from m2f_batch.demo.scenes import MODEL, SHOW_SEED, STUFF_IDS, draw_scene
from m2f_batch.explain.pictures import overlay
from m2f_batch.vision.segmenter import Segmenter

NUMBERS = (9, 12, 21, 23)  # of the demo's scenes, all of 192x256 pixels
COLUMNS, GAP = 2, 8
WIDTH = 900  # of the picture, as wide as a page


def main() -> int:
    """Label the scenes and put them side by side, enlarged so that names can be read."""
    images = [draw_scene(SHOW_SEED + number).image for number in NUMBERS]
    found = Segmenter.from_pretrained(str(MODEL), task="panoptic")(images)
    drawn = [overlay(image, segments, STUFF_IDS) for image, segments in zip(images, found, strict=True)]
    height, width = drawn[0].shape[:2]
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, len(drawn) // COLUMNS * (height + GAP) - GAP), "white")
    for at, picture in enumerate(drawn):
        sheet.paste(Image.fromarray(picture), (at % COLUMNS * (width + GAP), at // COLUMNS * (height + GAP)))
    save_image(sheet.resize((WIDTH, sheet.height * WIDTH // sheet.width), Image.Resampling.LANCZOS), "scenes.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
