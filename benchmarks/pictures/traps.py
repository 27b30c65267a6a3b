"""Draws what transformers makes of the same logits beside ours: four traps of ``benchmarks/traps``.

python -m benchmarks.pictures.traps
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

from benchmarks.pictures.drawing import INK, save
from benchmarks.traps.pixels import center_crop
from benchmarks.traps.queries import collide, oneformer_lost, oneformer_processor, padding
from benchmarks.traps.trap import Shown

COLUMNS = {"image": "scene", "m2f_batch": "m2f_batch", "transformers": "transformers"}


def drawn() -> dict[str, Shown]:
    """The traps, by what is said beside them."""
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as folder:
        lost = oneformer_lost(oneformer_processor(Path(folder)))
    return {
        "OneFormer, instance:\nraw logits compete": lost,
        "Mask2Former, panoptic:\nids are given twice": collide(transformers.Mask2FormerImageProcessor()),
        "MaskFormer, panoptic:\npadding is not cropped": padding(
            transformers.MaskFormerImageProcessor(), keep_unsure=True
        ),
        "MobileViT, semantic:\na crop is stretched": center_crop(),
    }


def main() -> int:
    """Draw."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = drawn()
    figure = Figure(figsize=(7, 6.6), layout="constrained")
    axes: Any = figure.subplots(len(shown), len(COLUMNS))
    colors = colormaps["tab10"].with_extremes(under="white")
    for axis, title in zip(axes[0], COLUMNS.values(), strict=True):
        axis.set_title(title, color=INK, fontsize=10)
    for row, (says, trap) in zip(axes, shown.items(), strict=True):
        for axis, key in zip(row, COLUMNS, strict=True):
            axis.imshow(trap.maps[key], interpolation="nearest", cmap=colors, vmin=-0.5, vmax=9.5)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(says, color=INK, fontsize=8)
    save(figure, "traps.png", dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
