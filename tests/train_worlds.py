"""Training steps on drawn scenes in one process or in several that talk by gloo, from the same weights every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from m2f_batch.demo.scenes import CATEGORIES, TRAIN_SEED, draw_scene
from m2f_batch.train.batches import on_device
from m2f_batch.train.loop import Rules, TrainedModel, train_step
from m2f_batch.train.loss_parts import LossSettings
from m2f_batch.train.order import micro_batches, share
from m2f_batch.train.samples import Sample
from m2f_batch.vision.geometry import PreprocessPlan, plan_from_processor
from m2f_batch.vision.rle import encode_mask

CANVAS = (96, 96)
QUERIES = 12
BATCH = 5  # unequal shares for two


def small_model() -> Mask2FormerForUniversalSegmentation:
    """Random weights, no batch norm and no dropout: nothing that ties an image to its neighbours."""
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=QUERIES,
        train_num_points=256,
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: index for index, name in enumerate(CATEGORIES)},
    )
    model = Mask2FormerForUniversalSegmentation(config).train()
    for name, parameter in model.named_parameters():
        if "swin.layernorm" in name:  # never gets a gradient
            parameter.requires_grad_(False)
    return model


def plan() -> PreprocessPlan:
    """How pixels are normalised."""
    return plan_from_processor({"size": {"height": CANVAS[0], "width": CANVAS[1]}, "resample": 2})


def sample_of(position: int) -> Sample:
    """A drawn scene, cut to the canvas; some have many objects, some none."""
    scene = draw_scene(TRAIN_SEED + position)
    image = np.ascontiguousarray(scene.image[: CANVAS[0], : CANVAS[1]])
    found = [
        (label, encode_mask(mask[: CANVAS[0], : CANVAS[1]]).counts)
        for label, mask in zip(scene.category_ids, scene.masks(), strict=True)
        if mask[: CANVAS[0], : CANVAS[1]].any()
    ]
    kept = found[: position % 4 * 3]
    labels = np.array([label for label, _ in kept], np.int64)
    return Sample(position, position, f"scene {position}", image, labels, tuple(code for _, code in kept), None)


def rules(rate: float = 1.0) -> Rules:
    """Steps as the tests do them."""
    settings = LossSettings(train_num_points=256)
    return Rules(settings, plan(), CANVAS, QUERIES, 3, lambda _: rate, 0.01, bf16=False, skip_nonfinite=False)


def parts_of(step: int, rank: int, world_size: int, accumulate: int) -> list[list[Sample]]:
    """The micro-batches of one process in one step."""
    return [[*map(sample_of, part)] for part in micro_batches(share(step, BATCH, rank, world_size), accumulate)]


class PlainLoss(torch.nn.Module):
    """The loss that ``transformers`` computes, where DDP may find it: in the forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels, masks, labels):
        return self.model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss


def plain_gradients(weights: Path, steps: int, rank: int, world_size: int) -> list[dict]:
    """What a plain loop around ``transformers`` and DDP makes of the same steps."""
    torch.set_num_threads(1)
    model = small_model()
    network: torch.nn.Module = PlainLoss(model)
    if world_size > 1:
        network = torch.nn.parallel.DistributedDataParallel(network)
    found = []
    for step in range(steps):
        model.load_state_dict(torch.load(weights / f"{step}.pt", weights_only=True))
        model.zero_grad()
        (samples,) = parts_of(step, rank, world_size, 1)
        pixels, targets = on_device(samples, CANVAS, plan(), torch.device("cpu"), QUERIES)
        torch.manual_seed(step)
        loss = network(pixels, [t.masks.float() for t in targets], [t.class_ids for t in targets])
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append({"loss": float(loss.detach()), "gradient": flat.clone()})
    return found


def gradients(weights: Path, steps: int, accumulate: int, rank: int, world_size: int, dtype: str) -> list[dict]:
    """Of each step, from the weights of that step in ``weights``: its loss, its norm and all gradients."""
    torch.set_num_threads(1)
    model = small_model().to(getattr(torch, dtype))
    network: torch.nn.Module = TrainedModel(model)
    if world_size > 1:
        network = torch.nn.parallel.DistributedDataParallel(network)
    found = []
    for step in range(steps):
        state = torch.load(weights / f"{step}.pt", weights_only=True)
        model.load_state_dict({name: value.to(getattr(torch, dtype)) for name, value in state.items()})
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in model.parameters() if p.requires_grad], "initial_lr": 0.0}], lr=0.0
        )
        done = train_step(
            step, parts_of(step, rank, world_size, accumulate), network, optimizer, rules(0.0), torch.device("cpu")
        )
        # clipping scaled them all by the same number: undo it
        scale = max(1.0, done.gradient_norm / 0.01)
        flat = torch.cat([p.grad.flatten() * scale for p in model.parameters() if p.grad is not None])
        found.append({"loss": done.loss, "parts": done.parts, "norm": done.gradient_norm, "gradient": flat.clone()})
    return found


def in_worlds(weights: Path, steps: int, accumulate: int, world_size: int, dtype: str = "float32") -> list[dict]:
    """``gradients`` of rank 0 among so many processes; ``plain_gradients`` for the dtype "plain"."""
    if world_size == 1:
        if dtype == "plain":
            return plain_gradients(weights, steps, 0, 1)
        return gradients(weights, steps, accumulate, 0, 1, dtype)
    meeting = weights / f"meeting-{world_size}-{accumulate}-{dtype}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_WAIT_POLICY": "PASSIVE"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                str(weights),
                str(meeting),
                *map(str, (steps, accumulate, rank, world_size)),
                dtype,
            ],
            env=environment,
        )
        for rank in range(world_size)
    ]
    try:
        assert [process.wait(300) for process in processes] == [0] * world_size
    finally:
        for process in processes:
            process.kill()
    return torch.load(f"{meeting}.result", weights_only=True)


def _main(weights: str, meeting: str, steps: str, accumulate: str, rank: str, world_size: str, dtype: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world_size))
    if dtype == "plain":
        found = plain_gradients(Path(weights), int(steps), int(rank), int(world_size))
    else:
        found = gradients(Path(weights), int(steps), int(accumulate), int(rank), int(world_size), dtype)
    if rank == "0":
        torch.save(found, f"{meeting}.result")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
