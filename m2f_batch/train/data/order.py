"""Orders the images of a training as a function of the seed alone.

Positions count images from the start of training, over all workers: step ``t`` of batch size ``B`` takes positions
``t * B`` to ``(t + 1) * B - 1``, however many workers share them. So a resumed run, or one with another number of
workers, sees the same images with the same augmentation.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def image_at(position: int, count: int, seed: int) -> int:
    """Return which of ``count`` images is at ``position``. An epoch has every image once, in an order of its own.

    >>> sorted(image_at(position, 4, seed=7) for position in range(4, 8))
    [0, 1, 2, 3]
    """
    return int(_epoch(position // count, count, seed)[position % count])


def share(step: int, batch_size: int, rank: int, size: int) -> range:
    """Return the positions of one of ``size`` ranks in one step: a contiguous part. Parts differ by one at most.

    >>> [list(share(1, 5, rank, 2)) for rank in range(2)]
    [[5, 6, 7], [8, 9]]
    """
    begin, least, more = step * batch_size, batch_size // size, batch_size % size
    first = begin + rank * least + min(rank, more)
    return range(first, first + least + (rank < more))


def micro_batches(positions: range, accumulate: int) -> list[range]:
    """Divide a rank's positions of a step into ``accumulate`` parts, none of them empty.

    >>> micro_batches(range(5), 2)
    [range(0, 3), range(3, 5)]
    """
    parts = [share(0, len(positions), part, accumulate) for part in range(accumulate)]
    return [positions[part.start : part.stop] for part in parts if len(part)]


@lru_cache(maxsize=4)
def _epoch(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)
