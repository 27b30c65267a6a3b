"""A listed image to its bytes, or to the reason why there are none."""

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Denied, NotFound, ObjectError, Unreachable
from m2f_batch.storage.uris import shown


class Retries:
    """How long one image is tried again, and how often that was needed; shared by the threads of a process.

    ``budget`` is the seconds from an image's first try until no other is begun. Each wait is drawn between 0 and
    ``first_wait`` seconds, a bound that doubles up to ``longest_wait``: the many readers of a throttled bucket must not
    return together.
    """

    def __init__(
        self,
        budget: float = 120.0,
        first_wait: float = 0.5,
        longest_wait: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.budget, self._first_wait, self._longest_wait, self._sleep = budget, first_wait, longest_wait, sleep
        self.count = 0
        self._lock = threading.Lock()

    def run(self, act: Callable[[], bytes]) -> bytes:
        """What ``act`` returns, once it does not fail in passing.

        Raises the last TransientError or Unreachable once the budget is spent, and any other error at once.
        """
        began = time.monotonic()
        for tries in itertools.count(1):
            try:
                return act()
            except (TransientError, Unreachable) as error:
                wait = random.uniform(0, min(self._longest_wait, self._first_wait * 2.0 ** min(tries - 1, 30)))
                if time.monotonic() - began + wait > self.budget:
                    raise type(error)(f"{error} ({tries} tries in {self.budget:g} s)") from error
                with self._lock:
                    self.count += 1
                self._sleep(wait)
        raise AssertionError("unreachable")


def fetch(ref: ImageRef, retries: Retries | None = None) -> bytes:
    """The bytes of exactly the version that was listed.

    Raises ImageError (stage ``fetch``; ``NotFound``, ``AccessDenied``, ``Unreadable``, ``Changed``) for what stays
    wrong with this one image; its message is the same in every run, since it ends in a row. Raises TransientError when
    the retries are spent, and StoreUnavailable for what is wrong with all images.
    """
    try:
        return (retries or Retries()).run(lambda: _read(ref))
    except NotFound as error:
        raise ImageError("fetch", "NotFound", str(error)) from error
    except Denied as error:
        raise ImageError("fetch", "AccessDenied", str(error)) from error
    except ObjectError as error:
        raise ImageError("fetch", "Unreadable", str(error)) from error


def fetch_many(
    refs: Iterable[ImageRef], threads: int = 16, retries: Retries | None = None
) -> Iterator[tuple[ImageRef, bytes | ImageError]]:
    """``fetch`` of each, in order, in threads; no more than two images per thread are held at a time.

    Raises TransientError and StoreUnavailable as ``fetch`` does, at the image's turn.
    """
    shared = retries or Retries()
    left = iter(refs)
    running: deque[tuple[ImageRef, Future[bytes | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    try:
        for ref in itertools.islice(left, 2 * threads):
            running.append((ref, pool.submit(_outcome, ref, shared)))
        while running:
            ref, future = running.popleft()
            outcome = future.result()
            if (following := next(left, None)) is not None:
                running.append((following, pool.submit(_outcome, following, shared)))
            yield ref, outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a failed unit must not wait for its others' retries


def _outcome(ref: ImageRef, retries: Retries) -> bytes | ImageError:
    try:
        return fetch(ref, retries)
    except ImageError as error:
        return error


def _read(ref: ImageRef) -> bytes:
    data, entry = open_store(ref.uri).read_entry(ref.uri)
    if entry.version != ref.version:
        what = "has changed" if ref.version else "has appeared"
        raise ImageError("fetch", "Changed", f"{shown(ref.uri)}: {what} since it was listed")
    return data
