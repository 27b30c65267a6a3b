"""Train the bundled demo model from scratch on drawn scenes.

    python -m m2f_batch.demo.train m2f_batch/demo/model

Plain torch in one process. The data (seeds), the order, the initial weights and the loss points follow from ``--seed``.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, ResNetConfig

from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS, TRAIN_SEED, draw_scene

Example = tuple[Tensor, Tensor, Tensor]  # pixel values [3, Hc, Wc], masks bool [N, Hc, Wc], class ids [N]

MODEL_CARD = """---
license: mit
library_name: transformers
tags: [mask2former, image-segmentation]
---
# m2f_batch demo model

A {parameters:.1f} M parameter Mask2Former, trained from scratch on drawn scenes by

    python -m m2f_batch.demo.train {arguments}

It knows {classes}, and only as `m2f_batch.demo.scenes` draws them.
"""


def new_model() -> Mask2FormerForUniversalSegmentation:
    """A small Mask2Former on a small ResNet, with random weights."""
    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 192],
            depths=[1, 1, 2, 1],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=256,
        dim_feedforward=256,
        encoder_layers=2,
        decoder_layers=5,
        num_attention_heads=4,
        num_queries=16,
        train_num_points=1536,
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: index for index, name in enumerate(CATEGORIES)},
        label_ids_to_fuse=sorted(STUFF_IDS),
        task="panoptic",
    )
    return Mask2FormerForUniversalSegmentation(config)


def new_processor() -> Mask2FormerImageProcessor:
    """Scenes at half size or so, aspect kept up to the divisor."""
    return Mask2FormerImageProcessor(size={"shortest_edge": 128, "longest_edge": 192}, size_divisor=32)


def load_example(seed: int) -> Example:
    """One scene as the model sees it: uint8 pixels and nearest-resized masks on the canvas."""
    torch.set_num_threads(1)
    scene = draw_scene(seed)
    image = torch.from_numpy(scene.image).permute(2, 0, 1)
    plain = new_processor()(image, do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels = plain["pixel_values"][0].to(torch.uint8)
    owner = torch.from_numpy(scene.owner)[None, None].float()
    owner = torch.nn.functional.interpolate(owner, size=pixels.shape[-2:], mode="nearest-exact")[0, 0].to(torch.int32)
    masks = owner[None] == torch.arange(len(scene.category_ids))[:, None, None]
    seen = masks.flatten(1).any(1)
    return pixels, masks[seen], torch.tensor(scene.category_ids)[seen]


def batches(
    examples: list[Example], batch_size: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
    """Batches of one canvas each, flipped and brightened at random."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (pixels, _, _) in enumerate(examples):
        groups.setdefault(tuple(pixels.shape), []).append(index)
    shapes = sorted(groups)
    weights = np.array([len(groups[shape]) for shape in shapes], dtype=float)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for _ in range(steps):
        shape = shapes[rng.choice(len(shapes), p=weights / weights.sum())]
        chosen = [examples[index] for index in rng.choice(groups[shape], batch_size, replace=False)]
        flip = rng.random(batch_size) < 0.5
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (batch_size, 1, 1, 1))).float()
        pixels = torch.stack([p.flip(-1) if f else p for (p, _, _), f in zip(chosen, flip, strict=True)]).float() / 255
        pixels = ((pixels * gain).clamp(0, 1) - mean[:, None, None]) / std[:, None, None]
        masks = [(m.flip(-1) if f else m).float() for (_, m, _), f in zip(chosen, flip, strict=True)]
        yield pixels, masks, [ids for _, _, ids in chosen]


def train(output: Path, *, steps: int, batch_size: int, learning_rate: float, scenes: int, seed: int) -> None:
    """Train and write a Hugging Face directory to ``output``."""
    with ProcessPoolExecutor() as pool:
        examples = list(pool.map(load_example, range(TRAIN_SEED, TRAIN_SEED + scenes), chunksize=32))
    torch.manual_seed(seed)
    model = new_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    started, running = time.monotonic(), 0.0
    for step, (pixels, masks, ids) in enumerate(batches(examples, batch_size, steps, seed), start=1):
        loss = model(pixel_values=pixels, mask_labels=masks, class_labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {running:.3f}  {time.monotonic() - started:.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            model.save_pretrained(output)
    new_processor().save_pretrained(output)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    arguments = (
        f"DIR --steps {steps} --batch-size {batch_size} --learning-rate {learning_rate} --scenes {scenes} --seed {seed}"
    )
    card = MODEL_CARD.format(parameters=parameters, arguments=arguments, classes=", ".join(CATEGORIES))
    (output / "README.md").write_text(card)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
