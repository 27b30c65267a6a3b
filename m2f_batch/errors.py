"""What can go wrong, sorted once: the user's mistake, a failed run, one bad image, a passing fault.

Each of the four has one place that catches it: the command line (``UsageError``, ``RunError``), the row builder
(``ImageError``) and the unit of work (``TransientError``). Anything else is a bug and is raised.
"""


class UsageError(Exception):
    """The command, its config or its input is wrong. One message: field, value, what is allowed, what to do."""

    exit_code = 2


class RunError(Exception):
    """The run cannot go on (lost bucket, expired credentials, a model that does not load). What is committed stays."""

    exit_code = 1


class TransientError(Exception):
    """A fault that may pass (throttling, reset, timeout), with its retries spent. Never becomes a row."""


class ImageError(Exception):
    """One image that cannot be labelled: becomes a row with status ``error``.

    ``stage`` is where (fetch, decode, preprocess, label, postprocess), ``reason`` a short stable code, ``index`` the
    position in the caller's list when there is one. ``size_hw`` is the image's size in pixels when it is known all the
    same.
    """

    def __init__(
        self,
        stage: str,
        reason: str,
        message: str,
        *,
        index: int | None = None,
        size_hw: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(stage, reason, message)
        self.stage, self.reason, self.message = stage, reason, message
        self.index, self.size_hw = index, size_hw

    def __str__(self) -> str:
        where = "" if self.index is None else f"image {self.index}: "
        return f"{where}{self.stage}: {self.reason}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.stage, self.reason, self.message, self.index, self.size_hw)


class DecodeError(ImageError):
    """Bytes that are no image by the decode policy, or an image over the pixel cap."""

    def __init__(
        self, reason: str, message: str, *, index: int | None = None, size_hw: tuple[int, int] | None = None
    ) -> None:
        super().__init__("decode", reason, message, index=index, size_hw=size_hw)


def _rebuild(
    kind: type[ImageError], stage: str, reason: str, message: str, index: int | None, size_hw: tuple[int, int] | None
) -> ImageError:
    if issubclass(kind, DecodeError):
        return kind(reason, message, index=index, size_hw=size_hw)
    return kind(stage, reason, message, index=index, size_hw=size_hw)
