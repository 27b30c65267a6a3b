"""Works through units that killed their process before, image by image in a child process that may die of one.

The image at which a child died is tried again in a fresh one. What has three deaths of one kind is a row when the
image is what they have in common:

    the process crashed (SIGSEGV, SIGABRT, ..., an exit code)  a row, ``Crashed``
    it was killed (SIGKILL)                                    a row, ``Killed``: the kernel's answer to too much memory
    no result in the time it may take                          a row, ``TimedOut``; while fetching: transient
    it was stopped (SIGTERM, ...)                              transient: no image does that

A row does not depend on what else died meanwhile: other kinds of deaths are counted apart.
"""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from m2f_batch.errors import ImageError, RunError, TransientError
from m2f_batch.flow.crashes.isolated_child import START, Child, Died, Enter, Work
from m2f_batch.flow.unit.actor import ActorSettings, SegmentActor
from m2f_batch.flow.unit.labeler import Outcome
from m2f_batch.inputs.fetch import fetch
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.records import ImageRef
from m2f_batch.vision.cuts.view import Cut
from m2f_batch.vision.pixels.prepared import Prepared

Item = TypeVar("Item")
Answer = TypeVar("Answer")
MAX_DEATHS = 3  # of one kind, at one image
# Seconds without a word, far above what is honest: a decode takes seconds, but a forward pass of a large image on a
# busy CPU minutes. Fetching has a budget of its own. A first forward pass may compile the model.
LIMITS = {START: 1800.0, "fetch": 3600.0, "decode": 300.0, "label": 3600.0}
DOING = {"fetch": "fetching", "decode": "decoding", "label": "labelling"}
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)


def preparing(plan: PreprocessPlan, cut: Cut, max_pixels: int) -> Work[ImageRef, Prepared | ImageError]:
    """A child fetches, decodes and resizes each ImageRef, as ``stages.prepare_unit`` does."""
    import torch

    from m2f_batch.vision.pixels.preprocess import prepare_image

    torch.set_num_threads(1)

    def prepare(ref: ImageRef, enter: Enter) -> Prepared | ImageError:
        try:
            data = fetch(ref)
        except ImageError as error:
            return error
        enter("decode")
        return prepare_image(data, plan, max_pixels, cut)

    return prepare


def labeling(settings: ActorSettings) -> Work[Prepared, Outcome]:
    """A child labels each Prepared alone. Raises RunError for a model that does not load."""
    if not settings.labeling.compile:  # a compiled model keeps its batch size, each is compiled anew
        settings = replace(settings, batch_size=1)
    segmenter = SegmentActor(settings).segmenter

    def label(image: Prepared, enter: Enter) -> Outcome:
        (result,) = segmenter.label([image])
        return result

    return label


def prepare_isolated(
    refs: Iterable[ImageRef],
    *,
    plan: PreprocessPlan,
    cut: Cut,
    max_pixels: int,
    worker: Callable[[PreprocessPlan, Cut, int], Work[ImageRef, Prepared | ImageError]] = preparing,
    limits: Mapping[str, float] = LIMITS,
) -> list[Prepared | ImageError]:
    """Fetch, decode and resize each image in a child process, or say why it cannot be, in their order.

    The bytes are those of ``prepare_image`` in this process. Raises TransientError and RunError as ``fetch`` and
    ``prepare_image`` do, and when children die of something else than an image.
    """
    return _one_by_one(refs, partial(worker, plan, cut, max_pixels), "fetch", limits)


def label_isolated(
    settings: ActorSettings,
    prepared: Sequence[Prepared],
    *,
    worker: Callable[[ActorSettings], Work[Prepared, Outcome]] = labeling,
    limits: Mapping[str, float] = LIMITS,
) -> list[Outcome]:
    """Label each prepared image by a model in a child process, or say why there are no segments, in their order.

    On CPU in float32 the segments are those of the actor, byte for byte. The child's model takes memory of the device
    beside the actor's. Raises RunError when the model does not load, TransientError when children die of something else
    than an image.
    """
    if settings.device != "cpu" and "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()  # what the actor only keeps for later is the child's now
    results = _one_by_one(prepared, partial(worker, settings), "label", limits)
    for image, result in zip(prepared, results, strict=True):
        if isinstance(result, ImageError):
            result.size_hw = image.output_hw
    return results


class IsolatedSegmenter:
    """In place of a Segmenter where a unit is labeled."""

    def __init__(
        self,
        settings: ActorSettings,
        worker: Callable[[ActorSettings], Work[Prepared, Outcome]] = labeling,
        checked: object | None = None,
    ) -> None:
        self._settings, self._worker = settings, worker
        self.checked = checked  # as the actor's own: the check has one outcome on one machine

    def label(self, images: Sequence[Prepared]) -> list[Outcome]:
        """Label images as ``label_isolated`` does."""
        return label_isolated(self._settings, images, worker=self._worker)

    def take_seconds(self) -> dict[str, float]:
        """Return none: they are spent in other processes, and say nothing of the run's pace."""
        return {}


def _one_by_one(
    items: Iterable[Item], prepare: Callable[[], Work[Item, Answer]], stage: str, limits: Mapping[str, float]
) -> list[Answer | ImageError]:
    with closing(Child(prepare, limits)) as child:
        results: list[Answer | ImageError] = []
        for item in items:
            outcome = _outcome(child, item, stage, limits)
            results.append(outcome)
        return results


def _outcome(child: Child[Item, Answer], item: Item, stage: str, limits: Mapping[str, float]) -> Answer | ImageError:
    deaths: Counter[tuple[str, str | None]] = Counter()
    while True:
        try:
            return child.ask(item, stage)
        except Died as death:
            key = _kind(death.returncode), death.stage
            deaths[key] += 1
            if deaths[key] == MAX_DEATHS:
                return _verdict(death, limits)


def _kind(returncode: int | None) -> str:
    if returncode is None:
        return "TimedOut"
    if returncode == -signal.SIGKILL:
        return "Killed"
    return "Crashed" if returncode >= 0 or -returncode in _CRASHES else "Stopped"


def _verdict(death: Died, limits: Mapping[str, float]) -> ImageError:
    """Return the row of the image that a child died of so often. Raises what has nothing to do with the image."""
    kind, end = _kind(death.returncode), _words(death.returncode)
    if death.stage is None:
        if kind != "Crashed":
            raise TransientError(f"a child process {end or 'did not start in time'} before it had an image")
        said = death.stderr.strip().rpartition("\n")[2]
        raise RunError(f"a child process {end} before it had an image" + (f": {said}" if said else ""))
    doing = DOING[death.stage]
    if kind == "Stopped" or (kind == "TimedOut" and death.stage == "fetch"):
        raise TransientError(f"a child process {end or 'had no result in time'} while {doing} an image")
    if kind == "TimedOut":
        message = f"no result after {limits[death.stage]:g} s of {doing} it"
    elif kind == "Killed":
        message = f"the process {end} while {doing} it, as it is when memory runs out"
    else:
        message = f"the process {end} while {doing} it"
    return ImageError(death.stage, kind, message)


def _words(returncode: int | None) -> str:
    """Return the end of a process as a verb. Empty when it was silent."""
    if returncode is None:
        return ""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    number = -returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"was killed ({name})" if number == signal.SIGKILL else f"died of {name}"
