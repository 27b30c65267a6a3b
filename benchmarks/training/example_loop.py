"""The training loop of ``transformers``' instance-segmentation example, for ``benchmarks.training.train`` to run
beside ours.

    PYTHON -m benchmarks.training.example_loop MODEL DATA BATCH SIZE STEPS

Written after its ``run_instance_segmentation_no_trainer.py`` with its defaults: albumentations, the image processor
with dense masks, four DataLoader workers, Accelerate, AdamW on all parameters and a linear schedule. DATA holds
``*.jpg`` and of each a ``*.png`` (label in red, number of the object from 1 in green, 255 where there is none). Prints
the time after every step. Needs ``accelerate`` and ``albumentations``, which are not among our dependencies.
"""

import sys
import time
from pathlib import Path
from typing import Any

import albumentations  # type: ignore[import-not-found, unused-ignore]  # the example's, not ours
import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-not-found, unused-ignore]  # likewise
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, get_scheduler

WORKERS, RATE, NOTHING = 4, 5e-5, 255


class Photographs(Dataset[dict[str, Any]]):
    """Augmented and processed as the example does."""

    def __init__(self, folder: Path, processor: Any) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.processor = processor
        self.augment = albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=0.5),
                albumentations.RandomBrightnessContrast(p=0.5),
                albumentations.HueSaturationValue(p=0.1),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.array(Image.open(self.paths[index]).convert("RGB"))
        maps = np.array(Image.open(self.paths[index].with_suffix(".png")))[..., :2]
        done = self.augment(image=image, mask=maps)
        pairs = np.unique(done["mask"].reshape(-1, 2), axis=0)
        inputs = self.processor(
            images=[done["image"]],
            segmentation_maps=[done["mask"][..., 1]],
            instance_id_to_semantic_id={int(number): int(label) for label, number in pairs},
            ignore_index=NOTHING,
            return_tensors="pt",
        )
        return {name: inputs[name][0] for name in ("pixel_values", "mask_labels", "class_labels")}


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch, with masks and labels as lists."""
    batch = {name: [example[name] for example in examples] for name in examples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


def main() -> None:
    """Train for so many steps."""
    directory, folder, batch_size, size, steps = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    accelerator = Accelerator()
    model = AutoModelForUniversalSegmentation.from_pretrained(directory)
    processor = AutoImageProcessor.from_pretrained(directory, do_resize=True, size={"height": size, "width": size})
    loader = DataLoader(
        Photographs(folder, processor),
        shuffle=True,
        batch_size=batch_size,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=collate,
    )
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=RATE)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    done = 0
    while done < steps:
        model.train()
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            print(f"step {done} {time.time()}", flush=True)
            if done >= steps:
                break


if __name__ == "__main__":
    main()
