"""Draws how many times as fast as transformers each part is, from the tables of benchmarks/results.

python -m benchmarks.pictures.speed
"""

import sys
from typing import NamedTuple

from benchmarks.lib.results import Span, line_of, span
from benchmarks.pictures.drawing import FAINT, INK, OURS, save


class Bar(NamedTuple):
    """One part: its name, what both took, and their ratio."""

    name: str
    took: str
    ratio: Span


def bars() -> list[Bar]:
    """Read the bars from the newest results, the largest first."""
    drawn = []
    for name, task, output, kept, classes in (
        ("masks and RLE, instance, 4K, 40 objects", "instance", "2160x3840", "40", "80"),
        ("masks and RLE, semantic, 4K, 150 classes", "semantic", "2160x3840", "40", "150"),
        ("masks and RLE, instance, 480x640, 20 objects", "instance", "480x640", "20", "80"),
        ("masks and RLE, panoptic, 4K, 40 segments", "panoptic", "2160x3840", "40", "133"),
    ):
        cells = {"task": task, "output": output, "kept": kept, "classes": classes}
        line = line_of("postprocess", "transformers / ours", **cells)
        drawn.append(Bar(name, f"{line['ours']}, not {line['transformers']}", span(line["transformers / ours"])))
    for canvas in ("800x1088", "512x512"):
        line = line_of("forward", "eager / ours", canvas=canvas)
        drawn.append(
            Bar(f"forward, Swin-T, {canvas}", f"{line['ours']}, not {line['eager']}", span(line["eager / ours"]))
        )
    ours = line_of("job", "whole job / this", way="whole job after start-up")
    theirs = line_of("job", "whole job / this", way="transformers pipeline")
    took = f"{ours['images/s']} images/s, not {theirs['images/s']}"
    drawn.append(Bar("the whole job, measured once", took, span(theirs["whole job / this"])))
    return sorted(drawn, key=lambda bar: -bar.ratio.median)


def draw(parts: list[Bar]) -> None:
    """Draw the bars on a logarithmic axis, with the lowest and the highest round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(parts) + 1.1), layout="constrained")
    axis = figure.subplots()
    places = range(len(parts))[::-1]
    medians = [bar.ratio.median for bar in parts]
    spread = [[bar.ratio.median - bar.ratio.low for bar in parts], [bar.ratio.high - bar.ratio.median for bar in parts]]
    axis.barh(places, medians, xerr=spread, height=0.62, color=OURS, ecolor=FAINT, capsize=3)
    for place, bar in zip(places, parts, strict=True):
        text = f"  {bar.ratio.median:.3g} x   ({bar.took})"
        axis.text(bar.ratio.high * 1.04, place, text, va="center", color=INK, fontsize=9)
    axis.set_yticks(places, [bar.name for bar in parts], color=INK, fontsize=9.5)
    axis.set(xscale="log", xlim=(1, 3000))
    axis.set_xlabel(
        "times as fast as transformers 5.23 (logarithmic axis), 2 CPU cores\ngray: lowest and highest round"
    )
    axis.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axis.minorticks_off()
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    save(figure, "speed.png")


def main() -> int:
    """Draw the chart."""
    draw(bars())
    return 0


if __name__ == "__main__":
    sys.exit(main())
