"""Lists the arguments of the jobs that are keys of their configs, for editors and type checkers.

tests/unit/api/test_settings.py makes it of the configs, and fails where a name has gone or changed.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypedDict

Text = str | os.PathLike[str]


class SegmentSettings(TypedDict, total=False):
    """The settings of ``segment``, each with its key."""

    actors: int | Sequence[int] | None  # compute.actors
    address: Text | None  # compute.address
    addressing_style: Literal["auto", "virtual", "path"] | None  # storage.s3.addressing_style
    allow: Sequence[Text] | None  # storage.allow
    allow_no_token: bool  # compute.allow_no_token
    allowed_licenses: Sequence[Text] | None  # model.allowed_licenses
    anonymous: bool | Sequence[Text]  # storage.s3.anonymous
    batch_size: int | None  # compute.batch_size
    compile: bool  # model.compile
    deadline: Text | None  # run.deadline
    device: Literal["auto", "cpu", "cuda"]  # compute.device
    fetch_threads: int  # input.fetch_threads
    gpus_per_actor: float | None  # compute.gpus_per_actor
    images_per_file: int | None  # output.images_per_file
    images_per_unit: int  # run.images_per_unit
    label_ids_to_fuse: Collection[int] | None  # postprocess.label_ids_to_fuse
    lease_seconds: float  # run.lease_seconds
    log: Literal["text", "json"]  # run.log
    mask_threshold: float | None  # postprocess.mask_threshold
    max_error_fraction: float  # input.max_error_fraction
    max_pixels: int  # input.max_pixels
    max_removed_fraction: float  # input.max_removed_fraction
    normalize: Mapping[str, object] | None  # preprocess.normalize
    overlap_mask_area_threshold: float | None  # postprocess.overlap_mask_area_threshold
    overlap_threshold: float | None  # postprocess.overlap_threshold
    overwrite: bool  # output.overwrite
    precision: Literal["fp32", "bf16", "fp16"] | Literal["float32", "bfloat16", "float16"]  # model.precision
    request_payer: Literal["requester"] | None  # storage.s3.request_payer
    retry: Text | None  # run.retry
    revision: Text | None  # model.revision
    root: Text | None  # input.root
    score_threshold: float | None  # postprocess.score_threshold
    size: Literal["checkpoint", "paper"] | Mapping[str, object]  # preprocess.size
    stuff_ids: Collection[int] | None  # postprocess.stuff_ids
    threads_per_actor: int  # compute.threads_per_actor
    threshold: float | None  # postprocess.threshold
    top_k: int | None  # postprocess.top_k
    window: Mapping[str, object] | None  # preprocess.window


class FinetuneSettings(TypedDict, total=False):
    """The settings of ``finetune``, each with its key."""

    accumulate: int  # train.accumulate
    activation_checkpointing: bool  # train.activation_checkpointing
    address: Text | None  # compute.address
    addressing_style: Literal["auto", "virtual", "path"] | None  # storage.s3.addressing_style
    allow: Sequence[Text] | None  # storage.allow
    allow_no_token: bool  # compute.allow_no_token
    allowed_licenses: Sequence[Text] | None  # model.allowed_licenses
    anonymous: bool | Sequence[Text]  # storage.s3.anonymous
    backbone: Text | None  # model.backbone
    backbone_multiplier: float | None  # train.backbone_multiplier
    backbone_weights: bool  # model.backbone_weights
    batch_size: int  # train.batch_size
    checkpoint_every: int | None  # train.checkpoint_every
    clip_norm: float | None  # train.clip_norm
    color: float  # augment.color
    crop_size: int | Sequence[int]  # augment.crop_size
    crowd_as_object: bool  # data.crowd_as_object
    data_cpus: int | None  # compute.data_cpus
    deterministic: bool  # train.deterministic
    device: Literal["auto", "cpu", "cuda"]  # compute.device
    do_reduce_labels: bool  # data.do_reduce_labels
    early_stopping: int | None  # train.early_stopping
    ema: float | None  # train.ema
    epochs: float | None  # train.epochs
    evaluate_every: int | None  # train.evaluate_every
    flip: float  # augment.flip
    format: Text  # data.format
    freeze: Sequence[Text]  # train.freeze
    freeze_batch_norms: bool | None  # train.freeze_batch_norms
    gpus_per_worker: float | None  # compute.gpus_per_worker
    group_by: Text | None  # data.group_by
    ignore_index: int | None  # data.ignore_index
    keep: int  # train.keep
    learning_rate: float  # train.learning_rate
    mask_suffix: Text | None  # data.mask_suffix
    max_pixels: int  # data.max_pixels
    milestones: Sequence[float]  # train.milestones
    model_config: Mapping[Text, object]  # model.config
    names: Text | Sequence[Text | int] | Mapping[Text | int, Text | int] | None  # data.names
    normalize: Mapping[str, object] | None  # output.normalize
    on_nonfinite: Literal["stop", "skip"]  # train.on_nonfinite
    overwrite: bool  # output.overwrite
    palette: Text | Sequence[Text | Sequence[int]] | Mapping[Text | int, Text | Sequence[int]] | None  # data.palette
    precision: Literal["fp32", "bf16"] | Literal["float32", "bfloat16"]  # train.precision
    request_payer: Literal["requester"] | None  # storage.s3.request_payer
    resize: Literal["fit", "shortest_edge"]  # augment.resize
    revision: Text | None  # model.revision
    scale: Sequence[float]  # augment.scale
    schedule: Literal["step", "cosine", "poly"]  # train.schedule
    seed: int  # train.seed
    size: Mapping[str, object] | None  # output.size
    split: float | None  # data.split
    split_seed: int  # data.split_seed
    steps: int | None  # train.steps
    stratify: bool  # data.stratify
    threads_per_worker: int | None  # compute.threads_per_worker
    train_images: Text | None  # data.train_images
    train_masks: Text | None  # data.train_masks
    val: Text | None  # data.val
    val_images: Text | None  # data.val_images
    val_masks: Text | None  # data.val_masks
    warmup_steps: int  # train.warmup_steps
    weight_decay: float  # train.weight_decay
    workers: int | Sequence[int]  # train.workers
