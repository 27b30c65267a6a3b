"""Checks each image of a dataset with its masks, for ``lint`` and ``convert --drop-faulty``."""

from collections.abc import Iterator, Mapping, Sequence

from m2f_batch.config.finetune import AugmentConfig
from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Category, Dataset, Stated
from m2f_batch.datasets.findings import Report
from m2f_batch.datasets.format import Format
from m2f_batch.datasets.lint.images import Seen, look_at
from m2f_batch.datasets.lint.masks import Setting, mask_findings


def setting_of(augment: AugmentConfig, queries: int, *, is_semantic: bool) -> Setting:
    """Gives what a training with these settings sees."""
    crop = augment.crop_size
    return Setting((crop, crop) if isinstance(crop, int) else crop, augment.scale, queries, is_semantic)


def check_images(
    dataset: Dataset,
    form: Format,
    stated: Mapping[int, Sequence[Stated]],
    setting: Setting,
    report: Report,
    categories: Sequence[Category] | None = None,
) -> Iterator[Seen | None]:
    """Looks at each image, in order. What is wrong with it and its masks goes to ``report``, with its uri.

    ``categories`` stand in place of the dataset's.
    """

    def read_one(row: files.Row) -> files.Read:
        seen, findings = look_at(row, form)
        own = stated.get(row["image_id"], ())
        found = [*findings, *mask_findings(row, categories or dataset.categories, own, setting)]
        return {"seen": seen, "uri": row["uri"]}, found

    for result in files.rows_of(read_one, dataset.rows(), report, total=dataset.table.num_rows):
        yield result["seen"]
