"""A config becomes all that training needs: datasets, what it starts from, sizes and steps. Nothing is written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.segment import AspectSize, ExactSize, Task
from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import NOTES, Report, stop
from m2f_batch.datasets.format import formats
from m2f_batch.datasets.learnable import Learnable, learnable, learnable_findings
from m2f_batch.datasets.splits.train_val import read_splits
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.models.checkpoint import Checkpoint, check_license, choose_task, read_checkpoint
from m2f_batch.models.family import Family, all_families, check_trainable, default_family
from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.models.source import ModelSource, find_model, local_directory
from m2f_batch.storage.retries import retry_before_run
from m2f_batch.train.data.samples import Recipe

if TYPE_CHECKING:
    from m2f_batch.models.training import Training

STEPS_PER_VALIDATION = 0.1  # of all steps, if not set
_LOOKED_FOR = 20  # images of a split, or up to twice as many


@dataclass(frozen=True)
class TrainJob:
    """A training says what is trained on what, and travels to every node.

    ``source`` is ``model.uri``, pinned down, or None for a new model. ``processor`` is the preprocessor_config.json of
    the tuned model, and ``model_type`` that of its family.
    """

    config: FinetuneConfig
    train: Dataset
    val: Dataset | None
    task: Task
    source: ModelSource | None
    license: str | None
    processor: Mapping[str, Any]
    model_type: str

    def checkpoint(self) -> Path | None:
        """Return the directory of ``source`` on this node, fetched where it is not there yet. None for a new model.

        Raises RunError when it cannot be had.
        """
        source = self.source
        return None if source is None else retry_before_run(lambda: local_directory(source))

    @property
    def family(self) -> Family:
        """The family of the model."""
        return all_families()[self.model_type]

    def training(self) -> "Training":
        """Return the training of the family, which loads torch."""
        assert self.family.training is not None
        return self.family.training()

    @property
    def plan(self) -> PreprocessPlan:
        """The way in which the tuned model sees images. Training normalizes as it does."""
        return self.family.pixels.own({}, self.processor, self.task)

    @property
    def canvas_hw(self) -> SizeHW:
        """Height and width of the training canvas in pixels."""
        size = self.config.augment.crop_size
        return (size, size) if isinstance(size, int) else size

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        train = self.config.train
        if train.steps is not None:
            return train.steps
        assert train.epochs is not None
        return max(1, round(train.epochs * self.train.table.num_rows / train.batch_size))

    @property
    def evaluate_every(self) -> int:
        """Steps between validations."""
        return self.config.train.evaluate_every or max(1, round(self.steps * STEPS_PER_VALIDATION))

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints, beside those of validations."""
        return self.config.train.checkpoint_every or self.evaluate_every

    @cached_property
    def learnable(self) -> Learnable:
        """The annotations as training will see them."""
        return learnable(self.train, self.task)

    def recipe(self, label_ids: tuple[int, ...]) -> Recipe:
        """Return the recipe of examples. ``label_ids`` are the model's label of each category."""
        augment = self.config.augment
        return Recipe(
            self.task,
            label_ids,
            self.canvas_hw,
            augment.scale,
            augment.flip,
            augment.color,
            self.config.train.seed,
            self.config.data.max_pixels,
            resize=augment.resize,
        )

    @cached_property
    def facts(self) -> dict[str, str]:
        """The facts that decide the weights, by name. A resumed training must agree in all of them."""
        tree = self.config.model_dump(mode="json")
        train = {key: value for key, value in tree["train"].items() if key not in UNDECIDING}
        return {
            "data": _digest(self.train),
            "validation data": "" if self.val is None else _digest(self.val),
            "model": json.dumps(tree["model"], sort_keys=True),
            "augment": json.dumps(tree["augment"], sort_keys=True),
            "train": json.dumps(train, sort_keys=True),
            "processor": json.dumps(dict(self.processor), sort_keys=True),
        }


UNDECIDING = ("workers", "accumulate", "keep", "checkpoint_every", "activation_checkpointing", "on_nonfinite")


def plan_job(config: FinetuneConfig, report: Report = stop) -> TrainJob:
    """Read and check everything but the images. Raises UsageError before anything is written.

    ``report`` gets what is wrong with the annotations.
    """
    train, val = read_splits(config.dataset, report)
    annotated = formats()[config.data.format].task
    source, license_, task, processor, family = None, None, config.model.task, None, default_family()
    if config.model.uri is not None:
        uri, revision = config.model.uri, config.model.revision
        source = pinned = retry_before_run(lambda: find_model(uri, revision))
        found = read_checkpoint(retry_before_run(lambda: local_directory(pinned)), uri)
        family = found.family
        check_trainable(family)
        check_license(found, config.model.allowed_licenses)
        # another task than the checkpoint's can be learned: only where none is named, its own is meant
        task = task or found.trained_task or annotated or choose_task(found, None)
        license_, processor = found.license, dict(found.processor)
    task = task or annotated or "instance"
    normalization = None
    if config.model.backbone is not None:
        from m2f_batch.train.start.backbones import find_backbone  # loads torch

        name, weights = config.model.backbone, config.model.backbone_weights
        assert family.training is not None
        training = family.training()
        backbone = retry_before_run(lambda: find_backbone(name, training, weights=weights))
        if backbone.directory is not None:
            pretrained = Checkpoint(name, backbone.directory, {}, {})
            check_license(pretrained, config.model.allowed_licenses)
            license_ = pretrained.license
        normalization = backbone.normalization
    job = TrainJob(
        config,
        train,
        val,
        task,
        source,
        license_,
        tuned_processor(config, family, processor, normalization),
        family.model_type,
    )
    _check_learnable(job)
    return job


def check_images(job: TrainJob) -> None:
    """Raises UsageError where not one of a few images of a split is there: its folder is another one then."""
    data = job.config.data
    for name, dataset in (("train", job.train), ("val", None if data.val is None else job.val)):
        images = [] if dataset is None else dataset.table["uri"].to_pylist()
        some = images[:: max(1, len(images) // _LOOKED_FOR)]
        if some and all(map(_is_missing, some)):
            problem = f"{len(some):,} of {len(images):,} images were looked for, and none is there, e.g. {some[0]!r}"
            raise UsageError(problem, field=f"data.{name}", hint=f"data.{name}_images names their folder")


def _is_missing(uri: str) -> bool:
    """Tells whether an image is known not to be there. What may not be looked at may be there."""
    try:
        return not files.exists(uri)
    except (UsageError, RunError, TransientError):
        return False


def _check_learnable(job: TrainJob) -> None:
    """Raises UsageError where nothing is left on this side of a split, or in this task."""
    is_any_learned = any(category.isthing or job.task != "instance" for category in job.train.categories)
    for finding in learnable_findings(job.learnable, job.config.data.train):
        if is_any_learned and finding.kind not in NOTES:  # where no category is, building the model says so
            split = "" if job.config.data.split is None else f" and data.split {job.config.data.split:g}"
            raise UsageError(f"{finding} (for model.task {job.task!r}{split})", field="data.train")


def tuned_processor(
    config: FinetuneConfig,
    family: Family,
    given: dict[str, Any] | None,
    normalization: tuple[list[float], list[float]] | None,
) -> dict[str, Any]:
    """preprocessor_config.json of the tuned model is the checkpoint's, with the size and the label maps that are meant.

    A new model gets its family's, with pixels as the weights of its backbone expect them.
    """
    size = config.output.size
    new = dict(family.new_model.processor) if family.new_model is not None else {}
    if normalization is not None:
        new["image_mean"], new["image_std"] = normalization
    settings = given or new
    # its old name, which transformers reads no more
    settings = {key: value for key, value in settings.items() if key != "reduce_labels"}
    normalize = config.output.normalize
    if normalize is not None:
        settings |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
        settings |= {"image_mean": list(normalize.mean), "image_std": list(normalize.std)}
    settings["do_reduce_labels"] = config.data.do_reduce_labels
    if config.data.do_reduce_labels and settings.get("ignore_index") is None:
        settings["ignore_index"] = 255  # what its zeros become; transformers refuses the one without the other
    if size is None and given is not None:
        return settings
    if size is None:
        # as large as training sees an image at scale 1
        crop = config.augment.crop_size
        edges = (crop, crop) if isinstance(crop, int) else (min(crop), max(crop))
        if config.augment.resize == "shortest_edge":
            edges = edges[0], 4 * edges[0]  # as the paper's configs for semantic data
        size = AspectSize(shortest_edge=edges[0], longest_edge=edges[1])
    names = ("height", "width") if isinstance(size, ExactSize) else ("shortest_edge", "longest_edge")
    old = {"size", "max_size", "_max_size", "pad_size"}
    return {key: value for key, value in settings.items() if key not in old} | {
        "do_resize": True,
        "size": {name: getattr(size, name) for name in names},
    }


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256(json.dumps([vars(category) for category in dataset.categories]).encode())
    for batch in dataset.table.select(["image_id", "uri", "height", "width", "ignored"]).to_batches(4096):
        digest.update(json.dumps(batch.to_pylist()).encode())
    for batch in dataset.table.select(["segments"]).to_batches(4096):
        digest.update(json.dumps(batch.to_pylist()).encode())
    return digest.hexdigest()
