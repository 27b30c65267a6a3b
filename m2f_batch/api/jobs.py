"""The jobs as functions: ``segment`` and ``finetune``."""

from typing import Unpack

from m2f_batch.api.settings import FinetuneSettings, SegmentSettings
from m2f_batch.api.words import OF_FINETUNE, OF_SEGMENT, Config, config_of, in_python
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.keywords import Place
from m2f_batch.config.segment import SegmentConfig, Task
from m2f_batch.errors import in_arguments
from m2f_batch.result import Outcome
from m2f_batch.runs.info import RunTotals
from m2f_batch.train.command import TrainTotals


def segment(
    images: Place,
    output: Place,
    *,
    model: Place | None = None,
    task: Task | None = None,
    config: Config | None = None,
    **settings: Unpack[SegmentSettings],
) -> Outcome[RunTotals]:
    """Label every image of ``images`` as exactly one row in ``output``, on Ray, and return the counts.

    Whatever stops it, the same call goes on where it was, and does new and changed images later. Rows are read by
    ``open_run(output)``. A Ray session of the caller is used and left open, with its settings; else a local Ray is
    started, or the cluster of ``address`` joined, and left at the end. A process has one job at a time. Nothing is
    printed.

    Args:
        images: a directory, a prefix of a bucket, a glob, a manifest, a COCO JSON or one image.
        output: the run directory, a path or a URI, not inside ``images``.
        model: a Hugging Face directory, a hub id (``id@revision``) or a bucket URI of such a directory.
        task: instance, semantic or panoptic; inferred from the model if None.
        config: a YAML file, or a mapping of what it would hold: ``{"postprocess": {"top_k": 50}}``. Arguments win.
        settings: keys of the config by their last part, all in ``m2f_batch.api.settings``: ``score_threshold=0.3``,
            ``size="paper"``, ``actors=4``, ``device="cuda"``, ``batch_size=8``, ``overwrite=True``,
            ``address="auto"``. The reference of the config lists all, with their units.

    Returns the end of the run. ``totals.images`` counts ``listed``, ``ok``, ``error`` and ``remaining``, and
    ``totals.seconds`` are those of this call. ``exit_code`` is 0, or 3 where more images failed than
    ``max_error_fraction`` allows, which ``error`` says. ``warnings`` are what the plan and the run warn of: terms of a
    license, labels that nothing names, pixel values that look wrong.

    Raises ArgumentError, a ValueError, for arguments that are wrong, and where another run holds ``output``: nothing
    was written. Raises RunError when the run cannot go on, and TransientError when storage does not answer for
    minutes: what was committed stays.

    Source: each model's paper, as ``Segmenter``; the rows are those of ``m2f-batch segment``.

        outcome = segment("photos/", "labels/", model="m2f_batch/demo/model")
        outcome.totals.images.ok, outcome.exit_code  # (24, 0)
    """
    places = {"images": images, "output": output, "model": model}
    with in_arguments(OF_SEGMENT):
        made = config_of(SegmentConfig, OF_SEGMENT, config, places, {"task": task, **settings})
        from m2f_batch.flow.job import segment as run  # loads Ray, which a wrong argument need not wait for

        return in_python(run(made), OF_SEGMENT)


def finetune(
    dataset: Place,
    output: Place,
    *,
    model: Place | None = None,
    task: Task | None = None,
    config: Config | None = None,
    **settings: Unpack[FinetuneSettings],
) -> Outcome[TrainTotals]:
    """Train a model on annotated images, and leave a Hugging Face directory with the best one in ``output``.

    Whatever stops it, the same call goes on from its last checkpoint. ``Segmenter.from_pretrained(output)`` and
    ``segment(..., model=output)`` take the model. One worker trains in this process; ``workers`` above 1, or an
    ``address``, train on Ray, in a session of the caller where there is one. A process has one job at a time. Nothing
    is printed.

    Args:
        dataset: annotations in ``format``: coco (default), coco-panoptic, semantic-png, instance-png, yolo or labelme.
        output: directory or URI of the tuned model, with checkpoints and metrics.
        model: the checkpoint to start from; with ``backbone=`` a new model on a pretrained backbone, without either
            one of random weights.
        task: instance, semantic or panoptic; that of the checkpoint, else of the format, if None.
        config: a YAML file, such as those of ``jobs/presets``, or a mapping of what it would hold. Arguments win.
        settings: keys of the config by their last part, all in ``m2f_batch.api.settings``: ``train_images=``, ``val=``,
            ``split=0.9``, ``steps=2000`` or ``epochs=10``, ``batch_size=16`` (images per step over all workers),
            ``learning_rate=1e-4``, ``workers=2``, ``seed=0``. Parameters of the architecture are ``model_config=``.

    Returns how far the training got: ``totals.step`` of ``totals.steps``, ``totals.images`` by split, and
    ``totals.best``, the figures of the best validation as shares of 1, None without one. ``warnings`` are those of the
    plan: faults of the annotations, and settings that suit them badly.

    Raises ArgumentError, a ValueError, for arguments and annotations that are wrong: nothing was written. Raises
    RunError when training cannot go on: the last checkpoint stays.

    Source: Mask2Former (arXiv 2112.01527, section 4.1 and appendix) and its repository's configs; see ``jobs/presets``.

        outcome = finetune("train.json", "tuned/", model="m2f_batch/demo/model", steps=500, split=0.9)
        outcome.totals.step, outcome.totals.best  # (500, {"step": 450, "AP": ..., ...})
    """
    places = {"dataset": dataset, "output": output, "model": model}
    with in_arguments(OF_FINETUNE):
        made = config_of(FinetuneConfig, OF_FINETUNE, config, places, {"task": task, **settings})
        from m2f_batch.train.command import finetune as train

        return in_python(train(made), OF_FINETUNE)
