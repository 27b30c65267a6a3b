"""JPEG bytes to pixel values on one thread: ours and the checkpoint's image processor on PIL images.

    python -m benchmarks.parts.preprocess [--quick]

In the same run the pixel values are compared: they are equal, bit by bit.
"""

import io
import statistics
import sys
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Mask2FormerImageProcessor

from benchmarks.lib.photos import as_jpeg, photographs, where_from
from benchmarks.lib.timing import Rounds, parser, publish, ratio_of, say, table, take_turns
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values, prepare_image

SETTINGS = ({"height": 384, "width": 384}, {"shortest_edge": 800, "longest_edge": 1333})
SIZES = ((480, 640), (1080, 1920), (2160, 3840))
NOTE = """Images/s are medians; the ratio is seconds of the processor by ours in the same round, with the lowest and
highest. Both get the same bytes, one image at a time, and decode them with Pillow; the pixel values were compared in
the same run and are equal bit by bit."""


def jpegs(output: tuple[int, int], count: int) -> list[bytes]:
    """Photographs of one size: landscape ones, enlarged where needed."""
    pictures = [Image.open(io.BytesIO(data)) for data in photographs(count)]
    return [as_jpeg(picture.convert("RGB").resize(output[::-1])) for picture in pictures]


def ours(files: list[bytes], plan: PreprocessPlan) -> list[Tensor]:
    """As the job does it, without the normalization being put off to the device."""
    values = []
    for data in files:
        prepared = prepare_image(data, plan, MAX_PIXELS)
        assert isinstance(prepared, Prepared)
        values.append(pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, torch.device("cpu")))
    return values


def theirs(files: list[bytes], processor: Any) -> list[Tensor]:
    """As the documentation of transformers does it."""
    return [
        processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")["pixel_values"] for data in files
    ]


def measure(output: tuple[int, int], setting: dict[str, int], images: int, rounds: Rounds) -> dict[str, Any]:
    """One line of the table. Raises AssertionError when the pixel values differ."""
    files, processor = jpegs(output, images), Mask2FormerImageProcessor(size=setting)
    plan = plan_from_processor({"size": setting})
    ways = {"ours": partial(ours, files, plan), "theirs": partial(theirs, files, processor)}
    seconds, answers = take_turns(ways, rounds)
    check_equal(answers["ours"], answers["theirs"])
    line: dict[str, Any] = {"JPEG": f"{output[0]}x{output[1]}", "size": "x / ".join(map(str, setting.values()))}
    line["size"] = "384x384" if "height" in setting else "shortest 800, longest 1333"
    line |= {f"{name}, images/s": f"{images / statistics.median(seconds[name]):.3g}" for name in ways}
    line |= {"theirs / ours": ratio_of(seconds["theirs"], seconds["ours"]), "rounds": len(seconds["ours"])}
    line["images"] = images
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    return line


def check_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Raise AssertionError unless all pixel values are the same."""
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), "the pixel values differ"


def main() -> int:
    """Measure, compare, print and write the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    rounds = Rounds(2, 2) if quick else Rounds(5, 9, 10)
    measure((120, 160), SETTINGS[0], 2, Rounds(1, 1))  # what a first call costs is not what is asked
    lines = [
        measure(output, setting, 4 if quick else 24 * 480 // output[0], rounds)
        for output in (SIZES[:1] if quick else SIZES)
        for setting in SETTINGS
    ]
    publish(
        "preprocess",
        "Preprocessing from JPEG bytes",
        [f"From {where_from()}.", table(lines), NOTE],
        threads=1,
        quick=quick,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
