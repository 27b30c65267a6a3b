"""A small training to be, for tests of what surrounds it."""

from pathlib import Path
from typing import Any

from support.train_models import CATEGORIES

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.datasets.dataset import dataset_of
from m2f_batch.train.start.job import TrainJob

DATASET = dataset_of(
    CATEGORIES,
    [
        {
            "image_id": 1,
            "uri": "/1.png",
            "height": 2,
            "width": 2,
            "segments": [{"category": 0, "iscrowd": False, "counts": "22"}],
        }
    ],
)


def job_of(output: Path, *, overwrite: bool = False, **train: Any) -> TrainJob:
    tree = {"data": {"train": "x.json"}, "train": {"steps": 10, **train}}
    tree |= {"output": {"uri": str(output), "overwrite": overwrite}}
    return TrainJob(FinetuneConfig.model_validate(tree), DATASET, None, "instance", None, None, {}, "mask2former")
