"""Draws the curves of a training anew, from the metrics log that it left.

    python -m benchmarks.pictures.curves OUTPUT training.png

They are those of ``curves.png`` in OUTPUT, as small as a page should load them.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

from benchmarks.pictures.drawing import save_image
from m2f_batch.train.layout import METRICS
from m2f_batch.train.output.metrics_log import curves_png, lines_of


def main() -> int:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path, help="OUTPUT of a finetune")
    parser.add_argument("name", help="the picture's name in docs/pictures/")
    options = parser.parse_args()
    drawn = curves_png(lines_of((options.output / METRICS).read_bytes()))
    save_image(Image.open(io.BytesIO(drawn)).convert("RGB"), options.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
