"""Every family beside eager transformers: its forward pass, its post-processing and its whole job, in one run.

    python -m benchmarks.families.families [--quick] [--only mask2former,segformer] [--device cuda]

Published configurations with random weights, float32. Writes results/families.md, results/families.json, and the column
of docs/guides/models.md; on another device results/families-DEVICE.md and .json. The figures of a family are kept in
the JSON as soon as they are there, and those of families that are not measured stay as they were.
"""

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.families import documents
from benchmarks.families.cases import ALL, Case
from benchmarks.families.models import save
from benchmarks.families.parts import measure_forward, measure_job, measure_post
from benchmarks.families.peers import Peer
from benchmarks.lib.photos import where_from
from benchmarks.lib.timing import Rounds, machine, parser, publish, say, table
from m2f_batch.models.loading import keep_float32
from m2f_batch.vision.segmenter import Segmenter

THREADS = 2
OUTPUTS = ((480, 640), (1080, 1920))
JOB_SECONDS = 3.0  # of forward passes in a round of a way, which say how many images it takes
# The largest takes half a minute for one round, and all together must end within 25 minutes on two cores.
QUICK, FORWARD, JOB, POST = Rounds(2, 2), Rounds(2, 9, 12), Rounds(2, 7, 15), Rounds(2, 9, 4)
NOTE = """Seconds are medians; a ratio is that of one round in which all took turns: median, lowest and highest.

*forward*: eager modules of `transformers` as its `from_pretrained` loads them (*attention* is what it chose), beside
ours, on the same pixel values; the largest difference of a logit is relative to the largest logit. Random weights put
masks about their threshold, where rounding flips bits of masked attention (Mask2Former, OneFormer): where a difference
exceeds 1e-4, both were computed in float64 too, and differed by less than 1e-9. UperNet of
`transformers` enlarges its logits to the canvas: ours are enlarged too, in the time. A BEiT that was tuned with
`transformers` reads no state behind its tenth block, and ours runs ten of twelve; weights of the authors read all.

*post-processing*, one thread: the processor's own `post_process_*` at the image's size with pycocotools for its masks,
beside ours, on logits with the places and areas of annotated objects. Their masks are others than the papers': *IoU* is
the median of ours with the best of theirs. Families that are not listed have the functions of one that is: UperNet
SegFormer's, MobileViTv2 MobileViT's.

*whole job*, in one process, files in memory to RLE: the image processor, the model, `post_process_*` and pycocotools,
image after image and all images as one batch, beside `Segmenter`. Where a paper sees more of an image than the crop of
`transformers` (both MobileViTs), ours computes more pixels."""
Measured = dict[str, Any]


def measure(case: Case, device: torch.device, *, quick: bool) -> Measured:
    """All parts of one case."""
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as folder:
        directory = Path(folder) / "model"
        save(case, directory, quick=quick)
        peer = Peer(case, directory, device)
        segmenter = Segmenter.from_pretrained(str(directory), task=case.task, device=str(device), threads=THREADS)
        forward = measure_forward(case, peer, segmenter, QUICK if quick else FORWARD, device)
        say(f"{case.name}: forward {_shown(forward, 'transformers')}")
        seconds = max(forward["ours"], forward["transformers"])
        count = 2 if quick else 32 if cuda else max(1, min(8, int(JOB_SECONDS / seconds)))
        job = measure_job(peer, segmenter, count, QUICK if quick else JOB)
        say(f"{case.name}: whole job {_shown(job, 'one by one')}, batched {_shown(job, 'batched')}")
        del peer, segmenter
        rounds = QUICK if quick else POST
        outputs = [(96, 128)] if quick else OUTPUTS
        post = [measure_post(case, directory, task, output, rounds) for task in case.post for output in outputs]
        for line in post:
            say(f"{case.name}: {line['task']} {line['output']} {_shown(line, 'transformers')}")
    return {"forward": forward, "post": post, "job": job}


def _shown(measured: Mapping[str, Any], other: str) -> str:
    median, low, high = measured[f"{other} / ours"]
    return f"{median:.3g} ({low:.3g}-{high:.3g})"


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def tables(measured: Mapping[str, Measured]) -> list[str]:
    """The three tables, with a heading each."""
    forward, post, job = [], [], []
    for name, parts in measured.items():
        one = parts["forward"]
        forward.append(
            {
                "family": name,
                "canvas": one["canvas"],
                "attention": one["attention"],
                "transformers": _seconds(one["transformers"]),
                "ours": _seconds(one["ours"]),
                "transformers / ours": _shown(one, "transformers"),
                "largest difference": f"{one['difference']:.1e}",
                "rounds": one["rounds"],
            }
        )
        post += [
            {
                "family": name,
                "task": line["task"],
                "output": line["output"],
                "segments": line["segments"],
                "transformers": _seconds(line["transformers"]),
                "ours": _seconds(line["ours"]),
                "transformers / ours": _shown(line, "transformers"),
                "IoU": f"{line['overlap']:.3f}",
                "rounds": line["rounds"],
            }
            for line in parts["post"]
        ]
        whole = parts["job"]
        job.append(
            {
                "family": name,
                "images": whole["images"],
                "segments per image": f"{whole['segments']:.0f}",
                "one by one, s per image": _seconds(whole["one by one"]),
                "batched": _seconds(whole["batched"]),
                "ours": _seconds(whole["ours"]),
                "one by one / ours": _shown(whole, "one by one"),
                "batched / ours": _shown(whole, "batched"),
                "rounds": whole["rounds"],
            }
        )
    named = {"forward": forward, "post-processing and RLE": post, "whole job": job}
    return [f"## {title}\n\n{table(lines)}" for title, lines in named.items() if lines]


def with_kept(measured: Mapping[str, Measured], device: torch.device) -> dict[str, Measured]:
    """What is measured now, and of other families what was measured before (their own machine is in git)."""
    kept = documents.figures(device.type)
    return {case.name: found for case in ALL if (found := measured.get(case.name) or kept.get(case.name))}


def keep(measured: Mapping[str, Measured], device: torch.device) -> None:
    """Write the JSON."""
    content = {"machine": machine(THREADS), "device": device.type, "families": with_kept(measured, device)}
    documents.result_of(device.type).write_text(json.dumps(content, indent=1) + "\n")


def write(measured: Mapping[str, Measured], device: torch.device, *, quick: bool) -> None:
    """Print the result. Unless it was a quick try, write it into its page and that of the models."""
    everything = measured if quick else with_kept(measured, device)
    about = f"Published configurations, random weights, float32 on {device.type}; {where_from()}."
    if stale := [name for name in everything if name not in measured]:
        about += f" Measured before, and kept: {', '.join(stale)}."
    name = documents.result_of(device.type).stem
    publish(name, "Families", [about, *tables(everything), NOTE], threads=THREADS, quick=quick)
    if not quick:
        documents.main()


def measure_all(cases: Sequence[Case], device: torch.device, *, quick: bool) -> dict[str, Measured]:
    """Measure each case, and keep what is there before the next. One that fails says why, and the others go on."""
    measured: dict[str, Measured] = {}
    for case in cases:
        begun = time.perf_counter()
        try:
            measured[case.name] = measure(case, device, quick=quick)
        except Exception:  # noqa: BLE001  # whatever ends one family, the others' figures are wanted
            traceback.print_exc()
        else:
            say(f"{case.name}: all in {time.perf_counter() - begun:.0f} s")
            if not quick:
                keep(measured, device)
    return measured


def chosen_cases(only: str | None) -> Sequence[Case]:
    """The cases with these names, small letters and dashes, or all. Raises SystemExit for a name that nobody has."""
    keys = only.split(",") if only else [case.key for case in ALL]
    if unknown := set(keys) - {case.key for case in ALL}:
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: there are {', '.join(case.key for case in ALL)}")
    return [case for case in ALL if case.key in keys]


def main() -> int:
    """Measure, print and write."""
    options = parser(__doc__)
    options.add_argument("--only", help="families to measure, with commas between them")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = options.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: there is no CUDA device here, and a CPU's figures would say nothing of one")
    device = torch.device(chosen.device)
    keep_float32(device)
    torch.set_num_threads(THREADS)
    cases = chosen_cases(chosen.only)
    measured = measure_all(cases, device, quick=chosen.quick)
    write(measured, device, quick=chosen.quick)
    if failed := [case.name for case in cases if case.name not in measured]:
        print(f"not measured, because of the errors above: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
