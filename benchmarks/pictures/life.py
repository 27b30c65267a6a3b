"""Draws the life of an image: what happens to it, where, and in which file of the package.

python -m benchmarks.pictures.life
"""

import sys
from typing import NamedTuple

from benchmarks.pictures.drawing import FAINT, INK, OURS, THEIRS, save


class Step(NamedTuple):
    """One box: what happens, where, and by which files of m2f_batch."""

    what: str
    where: str
    files: tuple[str, ...]
    color: str


STEPS = (
    Step("list INPUT,\nplan units\nof 32 images", "driver", ("inputs/listing.py", "runs/plan.py"), FAINT),
    Step("fetch,\ndecode,\nresize", "CPU tasks", ("flow/unit/stages.py",), THEIRS),
    Step("forward pass", "GPU or CPU actors", ("flow/unit/actor.py",), OURS),
    Step(
        "masks, RLE,\ncommit of\nthe unit", "the same actors", ("vision/postprocess.py", "runs/writing/commit.py"), OURS
    ),
    Step("verify,\nrun.json,\n_SUCCESS", "driver", ("runs/inspect/verify.py",), FAINT),
)
WIDTH, GAP, HEIGHT = 1.5, 0.35, 1.1


def main() -> int:
    """Draw the boxes from left to right."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(9, 1.9), layout="constrained")
    axis = figure.subplots()
    for number, step in enumerate(STEPS):
        left = number * (WIDTH + GAP)
        middle = left + WIDTH / 2
        box = FancyBboxPatch(
            (left, 0),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=step.color,
            alpha=0.18,
            linewidth=0,
        )
        axis.add_patch(box)
        axis.text(middle, HEIGHT / 2, step.what, ha="center", va="center", color=INK, fontsize=11)
        axis.text(middle, HEIGHT + 0.08, step.where, ha="center", va="bottom", color=INK, fontsize=9, weight="bold")
        axis.text(middle, -0.08, "\n".join(step.files), ha="center", va="top", color=INK, fontsize=8)
        if number:
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
            axis.annotate("", (left - 0.03, HEIGHT / 2), (left - GAP + 0.03, HEIGHT / 2), arrowprops=arrow)
    axis.set(xlim=(-0.05, len(STEPS) * (WIDTH + GAP) - GAP + 0.05), ylim=(-0.5, HEIGHT + 0.35))
    axis.set_axis_off()
    save(figure, "life.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
