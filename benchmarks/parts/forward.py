"""The forward pass: ours against eager transformers on the same weights, and both against the machine's GEMM rate.

    python -m benchmarks.parts.forward [--quick] [--compile] [--device cuda]

Swin-T at its default configuration, random weights, float32. Every round takes another photograph, and the logits of
all rounds are compared; in float64 at a small size they must be equal within 1e-9.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lib.models import eager, random_model
from benchmarks.lib.photos import photographs, where_from
from benchmarks.lib.timing import Rounds, parser, publish, ratio_of, say, show_seconds, table, take_turns
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import ExactSize
from m2f_batch.models.loading import forward, load_model
from m2f_batch.models.preprocess_plan import with_size
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values, prepare_image

THREADS, GEMM = 2, 2048
SIZES, SMALL = ((512, 512), (800, 1088)), (128, 160)
NOTE = """Seconds are medians; the ratio is eager by ours in the same round, with the lowest and highest. The shares are
of the rate of a float32 matrix product (2048 cubed) that took turns with both. *within 1e-4* counts the photographs
whose largest difference of a float32 logit is at most 1e-4 (attention bits may flip, so not all need to be)."""


def canvases(
    size: tuple[int, int], count: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Pixel values [1, 3, Hc, Wc] of photographs at exactly this size."""
    plan = with_size(plan_from_processor({}), ExactSize(height=size[0], width=size[1]))
    images = [prepare_image(data, plan, MAX_PIXELS) for data in photographs(count)]
    return [
        pixel_values(image.contents, size, plan, device).to(dtype) for image in images if isinstance(image, Prepared)
    ]


def cycle(run: Callable[[Tensor], Any], images: list[Tensor], device: torch.device) -> Callable[[], Any]:
    """Each call takes the next image, and ends when the device has."""
    numbers = iter(range(10**9))

    def call() -> Any:
        answer = run(images[next(numbers) % len(images)])
        if device.type == "cuda":
            torch.cuda.synchronize()
        return answer

    return call


@torch.inference_mode()
def theirs(model: nn.Module, values: Tensor) -> tuple[Tensor, Tensor]:
    """Class and mask logits as ``transformers`` gives them."""
    output = model(pixel_values=values)
    return output.class_queries_logits, output.masks_queries_logits


def difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The largest difference of a logit."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def measure(
    directory: Path, size: tuple[int, int], rounds: Rounds, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """One line of the table."""
    model, peer = load_model(directory, device), eager(directory, device)
    images = canvases(size, rounds.most, device)
    square = torch.randn(GEMM, GEMM, device=device)
    kept: dict[str, list[Any]] = {"ours": [], "eager": []}
    runs: dict[str, Callable[[Tensor], Any]] = {
        "ours": lambda values: kept["ours"].append(forward(model, values).tensors),
        "eager": lambda values: kept["eager"].append(theirs(peer, values)),
        "gemm": lambda _: [square @ square for _ in range(8)],
    }
    if compiled:
        runs["compiled"] = partial(forward, load_model(directory, device, compile_model=True))
    ways = {name: cycle(run, images, device) for name, run in runs.items()}
    with FlopCounterMode(display=False) as flops:
        theirs(peer, images[0])
    for way in ways.values():  # warm
        way()
    seconds, _ = take_turns(ways, rounds)
    apart = [difference(a, b) for a, b in zip(kept["ours"], kept["eager"], strict=True)]
    middle = {name: statistics.median(seconds[name]) for name in ways}
    rate, work = 8 * 2 * GEMM**3 / middle["gemm"], flops.get_total_flops()
    line = {
        "canvas": f"{size[0]}x{size[1]}",
        "GFLOP": f"{work / 1e9:.0f}",
        "GEMM, GFLOP/s": f"{rate / 1e9:.0f}",
        "eager": show_seconds(seconds["eager"]),
        "ours": show_seconds(seconds["ours"]),
        "eager / ours": ratio_of(seconds["eager"], seconds["ours"]),
        "share of GEMM, eager": f"{work / middle['eager'] / rate:.0%}",
        "share of GEMM, ours": f"{work / middle['ours'] / rate:.0%}",
        "largest difference": f"{max(apart):.1e}",
        "within 1e-4": f"{sum(value <= 1e-4 for value in apart)} of {len(apart)}",
        "rounds": len(seconds["ours"]),
    }
    if compiled:
        line["eager / compiled"] = ratio_of(seconds["eager"], seconds["compiled"])
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    return line


def check_double(directory: Path, count: int) -> float:
    """The largest float64 difference over photographs at a small size. Raises AssertionError above 1e-9."""
    cpu = torch.device("cpu")
    model, peer = load_model(directory, cpu).double(), eager(directory, cpu).double()
    largest = max(
        difference(forward(model, values).tensors, theirs(peer, values))
        for values in canvases(SMALL, count, cpu, torch.float64)
    )
    assert largest <= 1e-9, f"float64 logits differ by {largest:.1e}"
    return largest


def main() -> int:
    """Measure both sizes, compare, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--compile", action="store_true", help="torch.compile as well: minutes")
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    torch.set_num_threads(THREADS)
    device = torch.device(chosen.device)
    rounds = Rounds(2, 2) if chosen.quick else Rounds(5, 11, 45)
    with random_model({"height": 512, "width": 512}) as directory:
        largest = check_double(directory, 2 if chosen.quick else 8)
        sizes = SIZES[:1] if chosen.quick else SIZES
        lines = [measure(directory, size, rounds, device, chosen.compile) for size in sizes]
    double = f"float64 at {SMALL[0]}x{SMALL[1]}: largest difference of a logit {largest:.1e}."
    about = f"Swin-T, default configuration, random weights, float32 on {device.type}; {where_from()}."
    name = "forward" if device.type == "cpu" else f"forward-{device.type}"
    publish(name, "Forward", [about, table(lines), double, NOTE], threads=THREADS, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
