"""Draws what a kill does to a run: images committed over time, beside those of the same run undisturbed.

    python -m benchmarks.pictures.kill              # runs both, a few minutes on 2 cores, and draws
    python -m benchmarks.pictures.kill --draw       # draws what was measured before

Scenes of the demo are labeled by the command with the bundled model. Its process gets SIGKILL when a part of the images
is committed, and the same command is given again. What is committed is read from the files of OUTPUT, as anybody could.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from benchmarks.lib.timing import PROJECT, RESULTS, machine
from benchmarks.pictures.drawing import FAINT, INK, OURS, THEIRS, save
from m2f_batch.demo.scenes import MODEL, SHOW_SEED, draw_scene

FILE = RESULTS / "kill-timeline.json"
Samples = list[tuple[float, int]]  # seconds since the first command, images committed
LOOK_SECONDS = 0.25
AGAIN_SECONDS = 5.0  # between the kill and the next command


def command(images: Path, output: Path) -> list[str]:
    """Return the command of the picture."""
    words = ["segment", str(images), str(output), "--model", str(MODEL), "--task", "panoptic"]
    return [sys.executable, "-m", "m2f_batch.cli", *words, "--set", "run.images_per_unit=8"]


def committed(output: Path) -> int:
    """Count the images whose rows are in OUTPUT, in whole files or in units that wait for the rest of theirs."""
    whole = list(output.glob("annotations/*.parquet"))
    joined = {file.stem for file in whole}  # their units are still there for a moment
    units = [file for file in output.glob("_state/parts/*/*.parquet") if file.parent.name not in joined]
    rows = 0
    for file in [*whole, *units]:
        try:
            rows += int(pq.read_metadata(file).num_rows)
        except OSError:  # it has just been joined with others
            continue
    return rows


def looks(started: float, process: "subprocess.Popen[bytes]", output: Path) -> Iterator[tuple[float, int]]:
    """Yield a sample every quarter of a second until the process has ended, and one more."""
    while process.poll() is None:
        yield round(time.monotonic() - started, 2), committed(output)
        time.sleep(LOOK_SECONDS)
    yield round(time.monotonic() - started, 2), committed(output)


def undisturbed(images: Path, output: Path) -> Samples:
    """Run the command once. Raises CalledProcessError unless it ends with 0."""
    started = time.monotonic()
    process = subprocess.Popen(command(images, output), cwd=PROJECT)
    samples = list(looks(started, process, output))
    check(process)
    return samples


def killed(images: Path, output: Path, after: int) -> dict[str, Any]:
    """Run the command, kill its process once ``after`` images are committed, and give it again."""
    started = time.monotonic()
    process = subprocess.Popen(command(images, output), cwd=PROJECT)
    samples: Samples = []
    for sample in looks(started, process, output):
        samples.append(sample)
        if sample[1] >= after:
            process.kill()
            process.wait()
            break
    kill = time.monotonic() - started
    while time.monotonic() - started < kill + AGAIN_SECONDS:  # workers commit what they are at
        samples.append((round(time.monotonic() - started, 2), committed(output)))
        time.sleep(LOOK_SECONDS)
    again = time.monotonic() - started
    process = subprocess.Popen(command(images, output), cwd=PROJECT)
    samples.extend(looks(started, process, output))
    check(process)
    return {"samples": samples, "kill": round(kill, 2), "again": round(again, 2)}


def check(process: "subprocess.Popen[bytes]") -> None:
    """Raise CalledProcessError unless a command ended with 0."""
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)


def measure(count: int) -> dict[str, Any]:
    """Run both over ``count`` scenes."""
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for number in range(count):
            Image.fromarray(draw_scene(SHOW_SEED + number).image).save(images / f"scene-{number:04d}.png")
        whole = undisturbed(images, Path(folder) / "whole")
        return {
            "machine": machine(threads=2),
            "images": count,
            "undisturbed": whole,
            "killed": killed(images, Path(folder) / "killed", count // 3),
        }


def from_first_commit(samples: Samples) -> tuple[float, Samples]:
    """Return when the first images were committed, and the samples from there on, which is 0.

    >>> from_first_commit([(0.0, 0), (9.5, 0), (10.0, 8), (10.5, 16)])
    (10.0, [(0.0, 8), (0.5, 16)])
    """
    first = next(at for at, count in samples if count)
    return first, [(round(at - first, 2), count) for at, count in samples if at >= first]


def draw(measured: dict[str, Any]) -> None:
    """Draw both runs from their first commit on, because Ray's start takes some seconds more or less each time."""
    from matplotlib.figure import Figure

    run, total = measured["killed"], measured["images"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    _, whole = from_first_commit(measured["undisturbed"])
    first, samples = from_first_commit(run["samples"])
    kill, again = run["kill"] - first, run["again"] - first
    axis.step(*zip(*whole, strict=True), where="post", color=FAINT, label="never disturbed")
    axis.step(*zip(*samples, strict=True), where="post", color=OURS, linewidth=2, label="killed, and given again")
    axis.axvline(kill, color=THEIRS, linewidth=1.5)
    axis.text(kill, total * 1.03, "SIGKILL ", ha="right", va="bottom", color=INK, fontsize=9)
    axis.axvline(again, color=INK, linewidth=1, linestyle=":")
    axis.text(again, total * 1.03, " the same command again", va="bottom", color=INK, fontsize=9)
    axis.axhline(total, color=FAINT, linewidth=0.8)
    axis.set(
        xlim=0,
        ylim=(0, total * 1.15),
        xlabel="seconds since the first images were committed",
        ylabel="images committed",
    )
    axis.legend(loc="lower right", frameon=False, fontsize=9)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save(figure, "kill.png")


def main() -> int:
    """Measure unless told not to, and draw."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--draw", action="store_true", help="only draw what was measured before")
    options.add_argument("--images", type=int, default=600, help="scenes to label [%(default)s]")
    chosen = options.parse_args()
    if not chosen.draw:
        FILE.write_text(json.dumps(measure(chosen.images)) + "\n")
    draw(json.loads(FILE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
