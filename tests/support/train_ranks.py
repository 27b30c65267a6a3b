"""Training steps on drawn scenes in one process or in several that talk by gloo, from the same weights every time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.training.small_training import (
    BATCH,
    CANVAS,
    QUERIES,
    PlainLoss,
    parts_of,
    plan,
    rules,
    sample_of,
    small_model,
)
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.data.batches import on_device
from m2f_batch.train.loop.step import TrainedModel, train_step

__all__ = ["BATCH", "of_rank", "on_two_ranks", "parts_of", "rules", "sample_of", "small_model"]


def plain_gradients(weights: Path, steps: int, rank: int, size: int) -> list[dict]:
    """What a plain loop around ``transformers`` and DDP makes of the same steps."""
    torch.set_num_threads(1)
    model = small_model()
    network: torch.nn.Module = PlainLoss(model)
    if size > 1:
        network = torch.nn.parallel.DistributedDataParallel(network)
    found = []
    for step in range(steps):
        model.load_state_dict(torch.load(weights / f"{step}.pt", weights_only=True))
        model.zero_grad()
        (samples,) = parts_of(step, rank, size, 1)
        pixels, targets = on_device(samples, CANVAS, plan(), torch.device("cpu"), QUERIES)
        torch.manual_seed(step)
        loss = network(pixels, [t.masks.float() for t in targets], [t.class_ids for t in targets])
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append({"loss": float(loss.detach()), "gradient": flat.clone()})
    return found


def gradients(weights: Path, steps: int, accumulate: int, rank: int, size: int, dtype: str) -> list[dict]:
    """Of each step, from the weights of that step in ``weights``: its loss, its norm and all gradients."""
    torch.set_num_threads(1)
    model = small_model().to(getattr(torch, dtype))
    network: torch.nn.Module = TrainedModel(model, TRAINING)
    if size > 1:
        network = torch.nn.parallel.DistributedDataParallel(network)
    found = []
    for step in range(steps):
        state = torch.load(weights / f"{step}.pt", weights_only=True)
        model.load_state_dict({name: value.to(getattr(torch, dtype)) for name, value in state.items()})
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in model.parameters() if p.requires_grad], "initial_lr": 0.0}], lr=0.0
        )
        done = train_step(
            step, parts_of(step, rank, size, accumulate), network, optimizer, rules(0.0), torch.device("cpu")
        )
        # clipping scaled them all by the same number: undo it
        scale = max(1.0, done.gradient_norm / 0.01)
        flat = torch.cat([p.grad.flatten() * scale for p in model.parameters() if p.grad is not None])
        found.append({"loss": done.loss, "parts": done.parts, "norm": done.gradient_norm, "gradient": flat.clone()})
    return found


def of_rank(weights: Path, steps: int, accumulate: int, dtype: str, rank: int = 0, size: int = 1) -> list[dict]:
    """``gradients`` of a rank, or ``plain_gradients`` for the dtype "plain"."""
    if dtype == "plain":
        return plain_gradients(weights, steps, rank, size)
    return gradients(weights, steps, accumulate, rank, size, dtype)


def on_two_ranks(weights: Path, runs: list[tuple[int, str]]) -> list[list[dict]]:
    """``of_rank`` of rank 0 of two processes, for each number of steps and dtype.

    The two do all runs, because their imports take most of the time.
    """
    meeting = weights / "meeting"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_WAIT_POLICY": "PASSIVE"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(weights), str(meeting), str(rank), json.dumps(runs)], env=environment
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return torch.load(f"{meeting}.result", weights_only=True)


def _main(weights: str, meeting: str, rank: str, runs: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    found = [of_rank(Path(weights), steps, 1, dtype, int(rank), 2) for steps, dtype in json.loads(runs)]
    if rank == "0":
        torch.save(found, f"{meeting}.result")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
