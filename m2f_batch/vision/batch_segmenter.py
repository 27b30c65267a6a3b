"""Labels batches of an Arrow table: the stage for pipelines of Ray Data that are not ours."""

import os
from typing import Any

import pyarrow as pa

from m2f_batch.errors import ArgumentError
from m2f_batch.records import table_of
from m2f_batch.vision.segmenter import Segmenter

ADDED = ("height", "width", "status", "error", "segments")


class BatchSegmenter:
    """Labels the images of a column, batch by batch: the class that ``map_batches`` of Ray Data takes.

    Each actor loads the model once. A batch keeps its columns and gets those of ``annotations``: ``height`` and
    ``width`` (int32, pixels), ``status``, ``error`` and ``segments``. One image in, one row out: an image that cannot
    be had or read is a row with the status ``error``. Ray is not imported here, so that any Arrow table will do.

    Args:
        model: as of ``Segmenter.from_pretrained``.
        column: the images: paths or URIs, encoded bytes (``ray.data.read_binary_files``) or arrays, uint8 [H, W],
            [H, W, 3] or [H, W, 4] (``ray.data.read_images``). Null counts as a file of 0 bytes.
        options: arguments of ``Segmenter.from_pretrained``: ``task=``, ``device=``, ``threads=``, ``score_threshold=``.

    Raises ArgumentError and RunError as ``Segmenter.from_pretrained``.

    Source: the rows are those of ``m2f-batch segment`` with the same settings; on CPU in float32 byte for byte.

        dataset = ray.data.read_binary_files("photos/", include_paths=True)
        labeled = dataset.map_batches(
            m2f_batch.BatchSegmenter,
            fn_constructor_kwargs={"model": "m2f_batch/demo/model", "task": "instance", "column": "bytes"},
            batch_format="pyarrow",
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=2),  # two replicas
            num_cpus=2,  # as many as threads; on GPUs num_gpus=1, and device="cuda" above
        )
        labeled.select_columns(["path", "status", "segments"]).write_parquet("labels/")
    """

    def __init__(self, model: str | os.PathLike[str], *, column: str = "uri", **options: Any) -> None:
        self.column, self.segmenter = column, Segmenter.from_pretrained(model, **options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return ``batch`` with five more columns, its rows in their order.

        Raises ArgumentError for a batch that is no Arrow table, lacks the column of images or has one of the five, and
        TransientError or RunError where storage does not answer.
        """
        if not isinstance(batch, pa.Table):
            problem = f"is of type {type(batch).__name__}, and not an Arrow table"
            raise ArgumentError(problem, field="batch", hint="give map_batches batch_format='pyarrow'")
        if self.column not in batch.column_names:
            names = ", ".join(batch.column_names)
            raise ArgumentError("is no column of the batch", field="column", value=self.column, allowed=names)
        if taken := [name for name in ADDED if name in batch.column_names]:
            problem = f"has a column {taken[0]!r} already"
            raise ArgumentError(problem, field="batch", hint="rename it: rename_columns of Ray Data")
        images = [b"" if image is None else image for image in batch[self.column].to_pylist()]
        rows = table_of(self.segmenter.rows(images))
        for name in ADDED:
            batch = batch.append_column(rows.schema.field(name), rows[name])
        return batch
