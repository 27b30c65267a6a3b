"""Validates the weights: labels the validation images by the code of ``segment``, and measures them as ``evaluate``.

The weights are written as a model directory and loaded from there, so that the measured model is the one a user runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import ModelConfig, Task
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.pixel_cap import KEY
from m2f_batch.errors import Plain, RunError, UsageError, renamed
from m2f_batch.evaluation.evaluator import Evaluator
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import ObjectError
from m2f_batch.train import distributed
from m2f_batch.vision.segmenter import Segmenter

AT_ONCE = 16  # images
# detections of any score count, because AP needs them
THRESHOLDS: dict[Task, dict[str, Any]] = {"instance": {"score_threshold": 0.0}, "panoptic": {}, "semantic": {}}


def validate(
    directory: Path,
    dataset: Dataset,
    task: Task,
    category_of: Mapping[int, int],
    device: str,
    threads: int,
    max_pixels: int,
) -> dict[str, Any]:
    """Return ``Evaluator.summary`` of the model in ``directory`` over all images, each labeled by one of the ranks.

    ``warning`` says where it had to be computed with transformers' own modules, None elsewhere.
    ``category_of`` maps the model's labels to the dataset's categories. Raises RunError for an image that cannot be
    read, or is not as annotated, because metrics over the readable images alone would compare nothing.
    """
    config = check_config(ModelConfig, {"uri": str(directory), "task": task})
    # read directly, because the directory is our own scratch, which is in no allow-list
    options: dict[str, Any] = {"device": device, "threads": threads, "max_pixels": max_pixels}
    checkpoint = read_checkpoint(directory, str(directory))
    segmenter = Segmenter.from_checkpoint(checkpoint, config, postprocess=THRESHOLDS[task], **options)
    evaluator = Evaluator(dataset.categories, task, category_of)
    images = share_of(dataset, distributed.rank(), distributed.size()).rows()
    retries = Retries()
    while some := [*islice(images, AT_ONCE)]:
        rows = segmenter.rows([_bytes(image["uri"], retries) for image in some])
        for row, image in zip(rows, some, strict=True):
            if row["status"] != "ok":
                message = renamed(row["error"]["message"], {"input.max_pixels": KEY})
                raise RunError(f"cannot be used ({message})", field="data.val", value=Plain(image["uri"]))
            try:
                evaluator.add(row | {"uri": image["uri"]}, image)
            except UsageError as error:  # of another size than its annotations, in the words of evaluate
                raise RunError.about("data.val", error.with_field("")) from error
    first, *others = distributed.gathered(evaluator)
    for other in others:
        first.merge(other)
    checked = segmenter.checked
    return {**first.summary(), "warning": None if checked is None else checked.warning()}


@dataclass(frozen=True)
class Best:
    """The best validation of a training.

    figure: that of the task's ``main`` metric, -1 where it was not measurable.
    metrics: the figures over all classes.
    classes: the figures by class.
    """

    step: int
    main: str
    figure: float
    metrics: Mapping[str, float | None]
    classes: Sequence[Mapping[str, Any]]

    @property
    def tree(self) -> JsonObject:
        """The JSON object of a checkpoint."""
        return {"step": self.step, self.main: self.figure, "metrics": self.metrics, "classes": self.classes}

    @classmethod
    def of(cls, tree: JsonObject, main: str) -> "Best":
        """Return the best validation of a checkpoint."""
        return cls(tree["step"], main, tree[main], tree["metrics"], tree["classes"])


def patience_used(figure: float, best: float | None, before: int) -> int:
    """Count validations since the last that was better than all before, for ``train.early_stopping``.

    None are counted while the metric is 0, because a new head gives 0 for long, and has not stopped learning.
    """
    return 0 if best is None or best <= 0 or figure > best else before + 1


def share_of(dataset: Dataset, rank: int, size: int) -> Dataset:
    """Take every ``size``-th image for one of ``size`` ranks, none where there are fewer images."""
    rows = pa.array(range(rank, dataset.table.num_rows, size), pa.int64())  # without the type, none are no indices
    return Dataset(dataset.categories, dataset.table.take(rows))


def _bytes(uri: str, retries: Retries) -> bytes:
    try:
        return retries.run(lambda: open_store(uri).read(uri))
    except ObjectError as error:
        raise RunError(f"cannot be used ({error})", field="data.val", value=Plain(uri)) from None
