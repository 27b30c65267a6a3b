"""The model that a training begins with, and all that its settings can be refused for before anything is written."""

from dataclasses import dataclass

from m2f_batch.train.start.build import Start, build_model, prepare
from m2f_batch.train.start.job import TrainJob


@dataclass(frozen=True)
class New:
    """A model ready to be trained; ``notes`` say what it is made of and what was done to it."""

    start: Start
    notes: tuple[str, ...]


def new_model(job: TrainJob) -> New:
    """What ``job`` starts from, on the CPU. Raises UsageError for settings of which nothing can be made, RunError."""
    settings, checkpoint = job.config.train, job.checkpoint()
    start = build_model(job.config.model, job.train.categories, job.task, seed=settings.seed, checkpoint=checkpoint)
    return New(start, (*start.notes, *prepare(start, settings)))
