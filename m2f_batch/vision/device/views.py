"""Follows an image through the device: its views go in one by one, and its result is there with the last of them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from m2f_batch.errors import ImageError
from m2f_batch.models.predictions import Prediction
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.vision.cuts.view import Join, View
from m2f_batch.vision.pixels.prepared import Content, Prepared, Result

Part = TypeVar("Part")
Joined = TypeVar("Joined")
Begun = TypeVar("Begun")
Made = TypeVar("Made")


class ImageJob(Generic[Begun]):
    """An image and the future of its result. ``begun`` is what the device keeps of the image meanwhile."""

    def __init__(self, image: Prepared, begun: Begun) -> None:
        self.image, self.begun = image, begun
        self.future: Future[Result] = Future()
        self._is_asked = self._is_wanted = False

    def is_wanted(self) -> bool:
        """Return whether a view is worth computing: nobody canceled the image, no other view failed. For one thread."""
        if not self._is_asked:
            self._is_asked, self._is_wanted = True, self.future.set_running_or_notify_cancel()
        return self._is_wanted and not self.future.done()

    def succeed(self, result: Result) -> None:
        """Give the caller the result, unless another view has failed."""
        with suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, unless there is a result already."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class ViewJob(Generic[Begun]):
    """View ``at`` of an image."""

    of: ImageJob[Begun]
    at: int

    @property
    def content(self) -> Content:
        """Uint8 [hc, wc, 3]."""
        return self.of.image.contents[self.at]

    @property
    def canvas_hw(self) -> SizeHW:
        """(Hc, Wc) in pixels."""
        return self.of.image.views[self.at].canvas_hw


class Joining(Generic[Part, Joined]):
    """Makes a part of each view's prediction and joins the parts in the order of the views. Safe in threads.

    Predictions may come in any order, so that a result does not depend on it.
    """

    def __init__(
        self,
        image: Prepared,
        make: Callable[[Prediction, View], Part],
        join: Join[Part, Joined],
        finish: Callable[[Joined], Result],
    ) -> None:
        self._image, self._make, self._join, self._finish = image, make, join, finish
        self._lock = threading.Lock()
        self._early: dict[int, Part | ImageError] = {}
        self._next = 0

    @torch.inference_mode()
    def take(self, at: int, prediction: Prediction) -> Result | None:
        """Take the prediction of view ``at``. Returns the image's result with its last view, else None.

        A view of which nothing can be made is the image's result: the first of them in the order of the views.
        """
        views = self._image.views
        made = self._tried(lambda: self._make(prediction, views[at]))
        with self._lock:
            self._early[at] = made
            while (part := self._early.pop(self._next, None)) is not None:
                if isinstance(part, ImageError):  # its place is never passed, so no later view says anything
                    return part
                self._join.add(views[self._next], part)
                self._next += 1
            if self._next < len(views):
                return None
        return self._tried(lambda: self._finish(self._join.joined()))

    def _tried(self, act: Callable[[], Made]) -> Made | ImageError:
        try:
            return act()
        except ImageError as error:
            error.size_hw = self._image.output_hw
            return error
