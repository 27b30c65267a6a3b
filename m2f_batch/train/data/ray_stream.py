"""Streams the examples of one worker from Ray's tasks: the CPUs of the whole cluster read and augment.

Each worker asks for its own positions, in order, a bounded number ahead. The seed and the step settle which worker gets
an example. In a Ray Data dataset that is split while it streams, the first worker to ask would get it.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import ray

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.processes import ahead
from m2f_batch.train.data.samples import Recipe, Sample
from m2f_batch.train.data.stream import Span, Step, maker

PER_TASK = 4  # examples: they share the cost of a task, and a step does not wait long for its first
TASKS_AHEAD = 3  # for each that runs


def ray_stream(
    dataset: "ray.ObjectRef[Dataset]", recipe: Recipe, span: Span, tasks: int, cpus: float
) -> Iterator[Step]:
    """Yield the steps of ``span``. ``tasks`` at once make this worker's examples, each with ``cpus`` CPUs."""
    # A task is begun anew for as long as its process dies, because nodes come and go. A bad image is an error.
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
