"""Labels images by the million, exactly: the public names of the package, each loaded when it is first used.

This is the one ``__init__.py`` that holds anything, because ``import m2f_batch`` is how the package is met. It loads
neither torch nor Ray nor transformers nor pyarrow, and machines that only submit jobs have none of these.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2f_batch.api.datasets import LintReport, convert, lint
    from m2f_batch.api.jobs import finetune, segment
    from m2f_batch.api.runs import Evaluation, Export, Verification, evaluate, export, open_run, verify
    from m2f_batch.datasets.convert import Converted
    from m2f_batch.errors import ArgumentError, DecodeError, ImageError, RunError, TransientError, UsageError
    from m2f_batch.records import Segment
    from m2f_batch.result import Outcome
    from m2f_batch.runs.info import ImageCounts, RunTotals
    from m2f_batch.runs.reader import Run
    from m2f_batch.train.command import TrainTotals
    from m2f_batch.version import VERSION as __version__
    from m2f_batch.vision.batch_segmenter import BatchSegmenter
    from m2f_batch.vision.detections import to_supervision
    from m2f_batch.vision.pictures import plot
    from m2f_batch.vision.segmenter import Segmenter

__all__ = [
    "ArgumentError",
    "BatchSegmenter",
    "Converted",
    "DecodeError",
    "Evaluation",
    "Export",
    "ImageCounts",
    "ImageError",
    "LintReport",
    "Outcome",
    "Run",
    "RunError",
    "RunTotals",
    "Segment",
    "Segmenter",
    "TrainTotals",
    "TransientError",
    "UsageError",
    "Verification",
    "__version__",
    "convert",
    "evaluate",
    "export",
    "finetune",
    "lint",
    "open_run",
    "plot",
    "segment",
    "to_supervision",
    "verify",
]

_MODULES = {
    "m2f_batch.api.datasets": ("LintReport", "convert", "lint"),
    "m2f_batch.api.jobs": ("finetune", "segment"),
    "m2f_batch.api.runs": ("Evaluation", "Export", "Verification", "evaluate", "export", "open_run", "verify"),
    "m2f_batch.datasets.convert": ("Converted",),
    "m2f_batch.errors": ("ArgumentError", "DecodeError", "ImageError", "RunError", "TransientError", "UsageError"),
    "m2f_batch.records": ("Segment",),
    "m2f_batch.result": ("Outcome",),
    "m2f_batch.runs.info": ("ImageCounts", "RunTotals"),
    "m2f_batch.runs.reader": ("Run",),
    "m2f_batch.train.command": ("TrainTotals",),
    "m2f_batch.vision.batch_segmenter": ("BatchSegmenter",),
    "m2f_batch.vision.detections": ("to_supervision",),
    "m2f_batch.vision.pictures": ("plot",),
    "m2f_batch.vision.segmenter": ("Segmenter",),
}


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return import_module("m2f_batch.version").VERSION
        module = next((module for module, names in _MODULES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
