"""Streams the examples of one worker, step after step, made ahead of their time.

Without Ray a few threads make them, because Pillow and numpy let go of the interpreter. ``ray_stream`` does the same
with Ray tasks. Both give the same examples in the same order.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.processes import ahead
from m2f_batch.storage.retries import Retries
from m2f_batch.train.data.order import image_at, micro_batches, share
from m2f_batch.train.data.samples import Recipe, Sample, make_sample

STEPS_AHEAD = 2
Step = list[list[Sample]]  # of one worker: micro-batches


@dataclass(frozen=True)
class Span:
    """The steps of a training, and one rank's share of them. Steps count from 0, and ``first`` is the next one."""

    first: int
    steps: int
    batch_size: int
    accumulate: int
    rank: int
    size: int

    def positions(self) -> Iterator[list[range]]:
        """Yield the positions of each micro-batch, step by step."""
        for step in range(self.first, self.steps):
            yield micro_batches(share(step, self.batch_size, self.rank, self.size), self.accumulate)


def maker(dataset: Dataset, recipe: Recipe) -> Callable[[int], Sample]:
    """Return a function that makes the example of a position. It raises what ``make_sample`` does."""
    retries = Retries()

    def make(position: int) -> Sample:
        index = image_at(position, dataset.table.num_rows, recipe.seed)
        (row,) = dataset.table.slice(index, 1).to_pylist()
        return make_sample(row, position, recipe, retries)

    return make


def threaded_stream(make: Callable[[int], Sample], span: Span, threads: int) -> Iterator[Step]:
    """Yield the steps of ``span``, made by threads while earlier ones are trained on."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="examples")

    def submit(parts: list[range]) -> list[list[Future[Sample]]]:
        return [[pool.submit(make, position) for position in part] for part in parts]

    try:
        for _, begun in ahead(submit, span.positions(), STEPS_AHEAD):
            yield _ready(begun)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ready(parts: list[list[Future[Sample]]]) -> Step:
    return [[future.result() for future in part] for part in parts]
