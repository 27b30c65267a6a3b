"""Stand-ins for decoding and the model, so that what is around them can be measured. No torch, no pixels."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.flow.unit.stages import Spent, prepare_unit_by
from m2f_batch.flow.workers import Steps
from m2f_batch.records import ImageRef, Segment
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.pixels.prepared import Prepared

SIZE_HW = (4, 4)
BATCH = 16  # images that a stub takes at once
# a 2x2 square in the middle of a 4x4 image, as pycocotools encodes it; label 0 of the bundled model
SEGMENT = Segment(1, 0, "ball", 0.5, 4, (1.0, 1.0, 2.0, 2.0), "52203", SIZE_HW)


def prepare(table: pa.Table, **_: Any) -> pa.Table:
    """Prepare every image of one unit as one black pixel, to be labeled as one of 4x4. Nothing is fetched."""
    return prepare_unit_by(table, _pixels, Spent())


def _pixels(refs: list[ImageRef]) -> Iterator[Prepared]:
    for _ in refs:
        yield one_view(np.zeros((1, 1, 3), np.uint8), SIZE_HW)


def one_view(content: NDArray[np.uint8], size_hw: tuple[int, int]) -> Prepared:
    """An image of this size, seen whole as ``content``."""
    content_hw = (content.shape[0], content.shape[1])
    return Prepared((content,), (View(Window(0, 0, *size_hw), content_hw, content_hw),), size_hw)


def check(_: ActorSettings) -> None:
    """There is no processor."""


class StubSegmenter:
    """One segment per image. It has one device, which takes ``seconds`` per batch of 16, whoever asks.

    ``log``: a file of lines of JSON: first whether torch is loaded, then ``[began, ended]`` (time.time) of each batch.
    """

    checked = None  # it has no forward pass

    def __init__(self, seconds: float, log: Path | None) -> None:
        self._seconds, self._log, self._device, self._spent = seconds, log, threading.Lock(), 0.0

    def label(self, images: Sequence[Prepared]) -> list[list[Segment]]:
        """A segment for each of ``images``."""
        for first in range(0, len(images), BATCH) if self._seconds else ():
            with self._device:
                began = time.time()
                time.sleep(self._seconds * min(BATCH, len(images) - first) / BATCH)
                ended = time.time()
                self._spent += ended - began
                self.note([began, ended])
        return [[SEGMENT] for _ in images]

    def take_seconds(self) -> dict[str, float]:
        """Seconds on the device since the last call."""
        with self._device:
            spent, self._spent = self._spent, 0.0
        return {"forward": spent}

    def note(self, line: Any) -> None:
        """Append to the log, if there is one."""
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Load:
    """Loads a ``StubSegmenter``. It travels to the actors.

    ``folder`` gets a log per process. With ``pool``, an actor is ready when so many have logs there: none works while
    others still start.
    """

    seconds: float = 0.0
    folder: str | None = None
    pool: int = 1

    def __call__(self, _: ActorSettings) -> StubSegmenter:
        """A segmenter of its own for each actor."""
        if self.folder is None:
            return StubSegmenter(self.seconds, None)
        segmenter = StubSegmenter(self.seconds, Path(self.folder) / f"{os.getpid()}.jsonl")
        segmenter.note({"torch": "torch" in sys.modules})
        while len(os.listdir(self.folder)) < self.pool:
            time.sleep(0.2)
        return segmenter


def steps(seconds: float = 0.0, folder: str | None = None, pool: int = 1) -> Steps:
    """The job's steps with stubs for decoding and the model."""
    return Steps(prepare=prepare, load=Load(seconds, folder, pool), check=check)


def uris(count: int) -> Iterator[str]:
    """Files that are not there: images of some cameras."""
    return (f"/nowhere/2026/cam-{number // 500 % 20:02d}/{number:09d}.jpg" for number in range(count))
