"""One worker, two workers, and two of plain ``transformers`` + DDP, each going its own way from the same weights.

    python -m benchmarks.training.trajectories [--steps 200] [--picture docs/pictures/trajectories.png]

Same seed, same global batches (5 drawn scenes: 3 for one worker, 2 for the other), AdamW with clipping. All losses are
read off one ruler, whatever was differentiated: the loss of the whole batch, divided by its totals, at the same points.
Plain DDP takes the mean of each worker's loss over its own objects, at points of torch's generator.

Rounding alone parts two trainings in float32: the decoder thresholds its own masks and AdamW divides by small numbers.
In float64, where rounding is 10^9 times as small, it is seen whether two workers compute what one computes.
"""

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.lib.timing import PROJECT, table
from benchmarks.training.small_training import BATCH, CANVAS, QUERIES, PlainLoss, plan, rules, scene_of, small_model
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train import distributed
from m2f_batch.train.data.batches import on_device
from m2f_batch.train.data.order import share
from m2f_batch.train.data.samples import Sample
from m2f_batch.train.loop.step import TrainedModel, seed_everything, train_step
from m2f_batch.train.objective.objective import ImageTarget

RATE = 1e-3
FIRST = 20  # steps that are looked at closely
SMOOTHING = 9  # steps of a moving mean
TITLE: dict[str, Any] = {"fontsize": "medium", "loc": "left"}
CPU = torch.device("cpu")
Losses = NDArray[np.float64]  # [steps]


class Way(NamedTuple):
    """A way of training: so many workers, with our step or a plain loop's, in a floating type of torch."""

    workers: int
    is_plain: bool
    dtype: str


ONE, TWO, PLAIN = Way(1, False, "float32"), Way(2, False, "float32"), Way(2, True, "float32")
ONE_DOUBLE, TWO_DOUBLE = Way(1, False, "float64"), Way(2, False, "float64")
PAIRS = {
    "two workers": (TWO, ONE),
    "two workers, transformers + DDP": (PLAIN, ONE),
    "two workers, all in float64": (TWO_DOUBLE, ONE_DOUBLE),
}
COLORS = dict(zip(("one worker", *PAIRS), ("black", "tab:blue", "tab:red", "tab:green"), strict=True))


def trajectory(way: Way, steps: int) -> list[float]:
    """The loss of each step in this process, one of ``way.workers`` that are connected."""
    model = small_model().to(getattr(torch, way.dtype))
    network: nn.Module = PlainLoss(model) if way.is_plain else TrainedModel(model, TRAINING)
    if way.workers > 1:
        network = DistributedDataParallel(network)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([{"params": weights, "initial_lr": RATE}], lr=RATE)
    losses = []
    for step in range(steps):
        samples = [scene_of(position) for position in share(step, BATCH, distributed.rank(), distributed.size())]
        if way.is_plain:
            losses.append(_plain_step(step, samples, network, model, optimizer))
        else:
            losses.append(train_step(step, [samples], network, optimizer, rules(), CPU).loss)
    return losses


def _plain_step(
    step: int, samples: Sequence[Sample], network: nn.Module, model: Any, optimizer: torch.optim.Optimizer
) -> float:
    pixels, targets = on_device(samples, CANVAS, plan(), CPU, QUERIES)
    loss = _ruler(step, model, pixels, targets)
    seed_everything(rules().seed, step)
    optimizer.zero_grad(set_to_none=True)
    network(pixels, [target.masks.float() for target in targets], [target.class_ids for target in targets]).backward()
    nn.utils.clip_grad_norm_(network.parameters(), rules().clip_norm or math.inf)
    optimizer.step()
    return loss


@torch.no_grad()
def _ruler(step: int, model: Any, pixels: Tensor, targets: Sequence[ImageTarget]) -> float:
    """The loss of the whole batch as ``train_step`` tells it."""
    objective = rules().objective
    totals = objective.totals([len(target.class_ids) for target in targets], CPU)
    outputs = TRAINING.outputs(model, pixels)
    loss = objective.loss(outputs, targets, totals, seed=rules().seed, step=step).total.double()
    return float(distributed.total(loss) / distributed.size())


def losses_of(way: Way, steps: int) -> Losses:
    """The losses of one way, each worker a process of one thread."""
    with TemporaryDirectory() as folder:
        spawn(_worker, (way, steps, folder), nprocs=way.workers)
        return np.load(Path(folder) / "losses.npy")


def _worker(rank: int, way: Way, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=way.workers)
    losses = trajectory(way, steps)
    if rank == 0:
        np.save(Path(folder) / "losses.npy", losses)
    dist.barrier()
    dist.destroy_process_group()


def difference(losses: Losses, expected: Losses) -> Losses:
    """Relative, per step."""
    return np.abs(losses - expected) / expected


def figures(runs: dict[Way, Losses]) -> list[dict[str, Any]]:
    """A line for one worker and for each pair: how far apart, at first and in the end."""
    apart_keys = ("step 1", f"largest of the first {FIRST} steps", f"largest of the last {FIRST} steps")
    mean_key = f"mean loss of the last {FIRST} steps"
    lines: list[dict[str, Any]] = [
        {
            "against one worker": "one worker",
            **dict.fromkeys(apart_keys, ""),
            mean_key: f"{runs[ONE][-FIRST:].mean():.2f}",
        }
    ]
    for name, (way, against) in PAIRS.items():
        apart = difference(runs[way], runs[against])
        said = (f"{value:.1e}" for value in (apart[0], apart[:FIRST].max(), apart[-FIRST:].max()))
        figures = dict(zip(apart_keys, said, strict=True))
        lines.append({"against one worker": name, **figures, mean_key: f"{runs[way][-FIRST:].mean():.2f}"})
    return lines


def smoothed(losses: Losses) -> Losses:
    """Return a moving mean, shorter at both ends."""
    window = np.ones(min(SMOOTHING, len(losses)))
    return np.convolve(losses, window, "same") / np.convolve(np.ones(len(losses)), window, "same")


def picture(runs: dict[Way, Losses]) -> bytes:
    """Draw a PNG with losses on top, and below how far they are from one worker's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(np.arange(1, len(runs[ONE]) + 1), runs[ONE], color="lightgray", linewidth=0.8)
    shown = {"one worker": ONE} | {name: way for name, (way, _) in PAIRS.items() if way.dtype == "float32"}
    for (name, way), style in zip(shown.items(), ("-", "--", "-"), strict=True):
        losses = smoothed(runs[way])
        top.plot(np.arange(1, len(losses) + 1), losses, style, color=COLORS[name], label=name, linewidth=1.5)
    for name, (way, against) in PAIRS.items():
        apart = difference(runs[way], runs[against])
        equal = np.where(apart > 0, apart, np.nan)  # equal bit by bit: no point on a log scale
        bottom.plot(np.arange(1, len(apart) + 1), equal, color=COLORS[name], label=name, linewidth=1)
    top.set_title(f"free trajectories, the same seed and global batches of {BATCH}; each step's loss in gray", **TITLE)
    top.set_ylabel(f"loss of the whole batch, mean of {SMOOTHING} steps")
    bottom.set_title("each step's loss against one worker's; gaps: equal bit by bit", **TITLE)
    bottom.set(yscale="log", xlabel="step", ylabel="relative difference")
    for axis in (top, bottom):
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    Image.open(drawn).convert("RGB").quantize(128).save(small, format="png", optimize=True)  # a third of the bytes
    return small.getvalue()


def main() -> int:
    """Train all ways one after the other, draw them and print how far they part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--picture", type=Path, default=PROJECT / "docs" / "pictures" / "trajectories.png")
    options = parser.parse_args()
    runs = {}
    for way in (ONE, TWO, PLAIN, ONE_DOUBLE, TWO_DOUBLE):
        runs[way] = losses_of(way, options.steps)
        print(f"{way}: loss {runs[way][0]:.4f} to {runs[way][-1]:.4f}", flush=True)
    print(table(figures(runs)))
    options.picture.write_bytes(picture(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
