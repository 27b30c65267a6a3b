"""The examples of one worker from Ray's tasks: the CPUs of the whole cluster read and augment.

Each worker asks for its own positions, in order, a bounded number ahead. Who gets which example is settled by the seed
and the step: with a Ray Data dataset that is split while it streams, it would be settled by who asks first.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import ray

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.processes import ahead
from m2f_batch.train.data.samples import Recipe, Sample
from m2f_batch.train.data.stream import Span, Step, maker

PER_TASK = 4  # examples: what a task costs is spread over them, and a step does not wait long for its first
TASKS_AHEAD = 3  # for each that runs


def ray_stream(
    dataset: "ray.ObjectRef[Dataset]", recipe: Recipe, span: Span, tasks: int, cpus: float
) -> Iterator[Step]:
    """The steps of ``span``: ``tasks`` at once make this worker's examples, each with ``cpus`` CPUs."""
    # nodes come and go: a task is begun anew for as long as its process dies; what an image does wrong is an error
    task = ray.remote(_make).options(num_cpus=cpus, max_retries=-1)
    steps = [*span.positions()]
    positions = chain.from_iterable(chain.from_iterable(steps))
    left = iter(lambda: [*islice(positions, PER_TASK)], [])

    def samples() -> Iterator[Sample]:
        for _, made in ahead(lambda some: task.remote(dataset, recipe, some), left, TASKS_AHEAD * tasks):
            yield from ray.get(made)

    made = samples()
    for parts in steps:
        yield [[next(made) for _ in part] for part in parts]


def _make(dataset: Dataset, recipe: Recipe, positions: Sequence[int]) -> list[Sample]:
    make = maker(dataset, recipe)
    return [make(position) for position in positions]
