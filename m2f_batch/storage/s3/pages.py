"""Lists many keys of a bucket, 1000 to a request: all that lie below a prefix, or those of a long list.

``Ask`` makes one list request, from a prefix and other options to the reply of ``list_objects_v2``. S3 lists keys in
the order of their UTF-8 bytes, which is that of Python's strings.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from m2f_batch.storage.s3.columns import Columns, columns
from m2f_batch.storage.store import THREADS, StoreUnavailable, Unreachable

Ask = Callable[..., Any]
Known = dict[str, tuple[int, str] | None]

# Wanted keys on a page of 1000 that are worth it: a page takes 7 ms of a core here, a look at one object 1.4 ms. A list
# request is charged 12 times a HEAD
PAYS = 15
SKIPPED = 400  # wanted keys that are left out after a page that did not pay, before another page is tried
STRETCH = 2000  # wanted keys that one thread goes through


def walk(ask: Ask, top: str, first: Any) -> Iterator[Columns]:
    """Yields pages of the objects below ``top``, in any order. ``first`` is the reply to ``ask(top)``.

    A prefix of more than one page is opened, so that its folders can be walked side by side, as long as there are fewer
    than THREADS to walk. One that has more than a page of folders is walked as it is, because they may be one for each
    image. Nothing relies on the order of keys, because directory buckets have none.
    """
    waiting: deque[tuple[str, dict[str, Any]]] = deque()
    running: deque[tuple[str, bool, Future[Any]]] = deque()
    prefix, is_new, page = top, True, first
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            listed = columns(page)
            if page["IsTruncated"]:
                is_opened = is_new and len(running) + len(waiting) < THREADS
                is_opened = is_opened and any("/" in key[len(prefix) :] for key in listed.keys)
                opened = ask(prefix, Delimiter="/") if is_opened else page
                if opened["IsTruncated"]:
                    waiting.appendleft((prefix, {"ContinuationToken": page["NextContinuationToken"]}))
                else:
                    listed = columns(opened)
                    waiting.extend((folder["Prefix"], {}) for folder in opened.get("CommonPrefixes", []))
            while waiting and len(running) < THREADS:
                following, options = waiting.popleft()
                running.append((following, not options, pool.submit(ask, following, **options)))
            yield listed
            if not running:
                return
            prefix, is_new, future = running.popleft()
            page = future.result()


def sizes_and_etags(ask: Ask, keys: Sequence[str]) -> Known:
    """Reads size and ETag of ``keys``, which are sorted and differ, from pages of a list. None: no such object.

    Keys are left out that lie so far apart that looking at each is cheaper, and all where lists are refused. A page
    begins right before a wanted key, so that it costs the same wherever in the bucket that is.
    """
    asked = _until_refused(ask)
    stretches = [keys[first : first + STRETCH] for first in range(0, len(keys), STRETCH)]
    known: Known = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(partial(_of_stretch, asked), stretches):
            known |= part
    return known


def _until_refused(ask: Ask) -> Ask:
    """Makes ``ask`` give None from the first refusal on, because keys that may read objects need not list them."""
    refused = threading.Event()

    def asked(prefix: str, **options: Any) -> Any:
        try:
            return None if refused.is_set() else ask(prefix, **options)
        except Unreachable:
            raise
        except StoreUnavailable:
            refused.set()
            return None

    return asked


def _of_stretch(ask: Ask, keys: Sequence[str]) -> Known:
    known: Known = {}
    folder = _common_folder(keys[0], keys[-1])
    at = 0
    while len(keys) - at >= PAYS:
        before = keys[at][:-1]  # sorts before the key, and hardly anything lies between them
        page = ask(folder, **({"StartAfter": before} if len(before) > len(folder) else {}))
        if page is None:
            break
        seen, sizes, etags = columns(page)
        listed = dict(zip(seen, zip(sizes, etags, strict=True), strict=True))
        if [*seen] != sorted(seen) or (page["IsTruncated"] and not seen):
            break  # a directory bucket: what is not on the page may still come
        end = bisect_right(keys, seen[-1]) if page["IsTruncated"] else len(keys)
        known |= {key: listed.get(key) for key in keys[at:end]}
        at = max(at, end) + (0 if end - at >= PAYS else SKIPPED)
    return known


def _common_folder(first: str, last: str) -> str:
    r"""Returns the longest prefix of both that is empty or ends in a slash.

    >>> _common_folder("a/b/1.jpg", "a/bc/2.jpg"), _common_folder("a/1.jpg", "b/1.jpg")
    ('a/', '')
    """
    folder = first[: first.rfind("/") + 1]
    while not last.startswith(folder):
        folder = folder[: folder.rfind("/", 0, -1) + 1]
    return folder
