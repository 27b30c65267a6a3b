"""Measures the cost of broken images: the same photographs with and without them, by ``m2f-batch segment``.

    python -m benchmarks.parts.corrupt [--quick] [--images 180]

The bundled model. A tenth of the files is truncated, empty, no image at all or of random bytes; each must be a row.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.lib.photos import where_from, write_photographs
from benchmarks.lib.timing import Rounds, parser, publish, ratio_of, show_seconds, table, take_turns
from benchmarks.parts.whole import Done, Setting, whole_job

MODEL = Path(__file__).resolve().parents[2] / "m2f_batch" / "demo" / "model"
THREADS = 2
SOUND, MIXED = "sound", "sound and a tenth broken"


def break_some(folder: Path, count: int) -> None:
    """Write broken files between the sound ones."""
    whole = next(folder.iterdir()).read_bytes()
    noise = np.random.default_rng(0).bytes(50_000)
    kinds = (whole[: len(whole) // 2], b"", b"no image", noise)
    for number in range(count):
        (folder / f"photo-{9 * number:04d}-broken.jpg").write_bytes(kinds[number % len(kinds)])


def measure(images: int, repetitions: int) -> list[dict[str, object]]:
    """The lines of the table. Raises AssertionError where an image has no row, or a sound one another."""
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as scratch:
        folders = {SOUND: Path(scratch) / "sound", MIXED: Path(scratch) / "mixed"}
        for folder in folders.values():
            write_photographs(folder, images)
        broken = images // 9
        break_some(folders[MIXED], broken)
        setting = Setting(MODEL, [], "cpu", "fp32", "panoptic", THREADS, 1)
        done: dict[str, list[Done]] = {name: [] for name in folders}

        def way(name: str) -> None:
            output = Path(scratch) / f"{name}-{len(done[name])}"
            done[name].append(whole_job(setting, folders[name], output, ["--set", "input.max_error_fraction=1"]))

        take_turns({name: partial(way, name) for name in folders}, Rounds(repetitions, repetitions))
    sound, mixed = done[SOUND][0].found, done[MIXED][0].found
    assert len(sound) == images and len(mixed) == images + broken, "one image in, one row out"
    assert {name: mixed[name] for name in sound} == sound, "a broken neighbor changes nothing"
    seconds = {name: [each.seconds for each in runs] for name, runs in done.items()}
    return [
        {
            "images": name,
            "rows": runs[0].images,
            "seconds after start-up": show_seconds(seconds[name]),
            "to sound alone": ratio_of(seconds[name], seconds[SOUND]),
        }
        for name, runs in done.items()
    ]


def main() -> int:
    """Measure and write the table. Returns the exit code."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=180, help="sound photographs")
    asked = options.parse_args()
    lines = measure(18 if asked.quick else asked.images, 1 if asked.quick else 5)
    said = [table(lines), f"Photographs: {where_from()}. Rows of the sound images are equal in both."]
    publish("corrupt", "Broken images", said, threads=THREADS, quick=asked.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
