"""Measures one forward pass operator by operator, against the machine's rate of matrix products.

    python -m benchmarks.parts.profile_forward --size 512x512 [--threads 2] [--eager]

Swin-T at its default configuration, random weights, float32, batch 1, on CPU. The passes run the same operators in the
same order, and each place in it counts with its fastest time, so other work on the machine shows less. ``--eager``
profiles the module of transformers instead of ours.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from benchmarks.lib.models import LABELS, STAGES, SWIN_T
from benchmarks.lib.timing import machine, table
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.fast_layers.linear import product
from m2f_batch.models.loading import OriginalPredictor, forward
from m2f_batch.models.mask2former.fast import fast_mask2former

PASSES, SHOWN, GEMM = 5, 18, 2048


class Call(NamedTuple):
    """One operator call."""

    name: str
    seconds: float
    flops: int


class Meter(TorchDispatchMode):
    """Times every operator and counts the floating-point operations of those that are products."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run ``func``."""
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - started
        self.calls.append(Call(str(func).removeprefix("aten."), seconds, flops_of(func, args, kwargs or {}, result)))
        return result


def flops_of(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    """Count two per multiply and add, and zero for what is no product."""
    name = func._overloadpacket.__name__
    if name == "_linear_pointwise":
        x = args[0]
        return int(2 * x.numel() * result.shape[-1])
    if name == "scaled_dot_product_attention":
        query, key = args[0], args[1]
        return int(4 * query.numel() * key.shape[-2])
    if name == "conv2d":
        return int(2 * result.numel() * args[1][0].numel())
    count = flop_registry.get(func._overloadpacket)
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def fastest(run: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def gemm_rates() -> dict[str, float]:
    """FLOP/s of a float32 matrix product, of torch's own and of ours."""
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    ways = {"torch.mm": lambda: torch.mm(a, b), "ours (oneDNN)": lambda: product(a, b)}
    return {name: 2 * GEMM**3 / fastest(way, 8) for name, way in ways.items()}


def new_model(eager: bool) -> Any:
    """Swin-T with random weights, fast or as transformers builds it."""
    torch.manual_seed(0)
    backbone = SwinConfig(**SWIN_T, out_features=STAGES)
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, num_labels=LABELS)).eval()
    return OriginalPredictor(FAMILY, model) if eager else fast_mask2former(model)


def profile(model: Any, values: Tensor) -> tuple[float, list[Call]]:
    """Seconds of the fastest pass without the meter, and its calls, each with its fastest time of all passes."""
    forward(model, values)
    whole = fastest(lambda: forward(model, values), PASSES)
    passes = []
    for _ in range(PASSES):
        with Meter() as meter:
            forward(model, values)
        passes.append(meter.calls)
    calls = [place[0]._replace(seconds=min(call.seconds for call in place)) for place in zip(*passes, strict=True)]
    return whole, calls


def rows_of(calls: list[Call], rate: float) -> list[dict[str, str]]:
    """The operators that take longest, the rest, and the sum, for a table."""
    kinds: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        kinds[call.name].append(call)
    ordered = sorted(kinds.items(), key=lambda item: -sum(call.seconds for call in item[1]))
    rest = [call for _, some in ordered[SHOWN:] for call in some]
    total = sum(call.seconds for call in calls)
    rows = []
    for name, some in [*ordered[:SHOWN], (f"{len(ordered[SHOWN:])} others", rest), ("all", calls)]:
        seconds, flops = sum(call.seconds for call in some), sum(call.flops for call in some)
        rows.append(
            {
                "operator": name,
                "calls": str(len(some)),
                "ms": f"{seconds * 1e3:.1f}",
                "share": f"{seconds / total:.1%}",
                "GFLOP": f"{flops / 1e9:.1f}" if flops else "",
                "GFLOP/s": f"{flops / seconds / 1e9:.0f}" if flops else "",
                "of GEMM": f"{flops / seconds / rate:.0%}" if flops else "",
            }
        )
    return rows


def main() -> None:
    """Profile and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--size", default="512x512", help="height x width of the canvas")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--eager", action="store_true", help="the module of transformers instead of ours")
    given = options.parse_args()
    height, width = map(int, given.size.split("x"))
    torch.set_num_threads(given.threads)
    rates = gemm_rates()
    whole, calls = profile(new_model(given.eager), torch.randn(1, 3, height, width))
    rates = {name: max(rate, rates[name]) for name, rate in gemm_rates().items()}
    best = max(rates.values())
    print(machine(given.threads))
    print(f"\n{given.size}, {'transformers' if given.eager else 'ours'}: {whole * 1e3:.0f} ms, fastest of {PASSES}")
    print("float32 GEMM: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()) + "\n")
    print(table(rows_of(calls, best)))


if __name__ == "__main__":
    main()
