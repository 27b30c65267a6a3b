"""Looks at a run as an outside reader does, all the time: how far it is, and whether a row is ever there twice."""

import io
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType

import pyarrow.parquet as pq
from storages import Storage

POLL_SECONDS = 0.3


class Witness:
    """Polls ``uri`` in a thread while its context is open.

    ``files`` counts the files that hold results (of annotations and staged parts) ever seen; ``violations`` say what no
    reader should see: an image twice, a file that is not whole.
    """

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage, self._uri = storage, uri
        self._ids: dict[tuple[str, str], list[int]] = {}
        self._seen: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.polls = 0
        self.violations: list[str] = []

    def __enter__(self) -> "Witness":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(timeout=60)

    @property
    def files(self) -> int:
        return len(self._seen)

    def _watch(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            try:
                self.poll()
            except Exception as error:  # noqa: BLE001  an outside reader never sees one
                self.violations.append(f"reading: {type(error).__name__}: {error}"[:500])

    def poll(self) -> None:
        """Look once."""
        files = self._storage.files(self._uri)
        names = {name for name in files if name.startswith(("annotations/", "_state/parts/"))}
        self._seen |= {name for name in names if name.endswith(".parquet")}
        present = [(name, version) for name, version in files.items() if _is_result(name)]
        for name, version in present:
            if (name, version) not in self._ids:
                with suppress(FileNotFoundError):  # vanished since it was listed
                    self._ids[name, version] = self._read(name)
        counts = Counter(image for key in present for image in self._ids.get(key, []))
        doubled = [image for image, count in counts.items() if count > 1]
        if doubled:
            holders = sorted(name for name, version in present if doubled[0] in self._ids.get((name, version), []))
            self.violations.append(f"{len(doubled)} images visible twice, e.g. {doubled[0]} in {', '.join(holders)}")
        self.polls += 1

    def _read(self, name: str) -> list[int]:
        data = self._storage.read(f"{self._uri}/{name}")
        ids: list[int] = pq.read_table(io.BytesIO(data), columns=["image_id"])["image_id"].to_pylist()
        return ids


def _is_result(name: str) -> bool:
    return name.startswith("annotations/") and name.endswith(".parquet")
