"""Sorts what can go wrong once: the user's mistake, a failed run, one bad image, a passing fault.

Each of the four has one place that catches it: the command line (``UsageError``, ``RunError``), the row builder
(``ImageError``) and the unit of work (``TransientError``). Anything else is a bug and is raised.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final, Literal, Self

import yaml

# commands that Python has as functions, alone or as the subject of a sentence, and all other command lines
_COMMAND = re.compile(
    r"\bm2f-batch (segment|finetune|evaluate|export|verify|convert|lint)(?=$|['.,;:)]| (?:names|finds|shows)\b)"
)
_COMMAND_LINE = re.compile(r"(\bm2f-batch [a-z][^;,()'\"]*)")


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT  # no value: None is one, too

# how a command ends
EXIT_CODES: Mapping[int, str] = {
    0: "Done. Images that could not be read are rows with status `error`, and no failure.",
    1: "The run failed: what was committed is kept, and the same command goes on. `verify` and `lint` have found "
    "something, or `explain` has found another row than the run's.",
    2: "The command, its config or its input is wrong, or another run holds OUTPUT. One message says so, and nothing "
    "was written.",
    3: "More than `input.max_error_fraction` of the images failed. That is judged at the end, when the run is whole, "
    "verified and has `_SUCCESS`, and once 200 images have rows, when it ends early and the others remain.",
    130: "Stopped by Ctrl-C or SIGTERM. The same command goes on.",
    137: "The process was killed (SIGKILL). `submit` ends so where its job's process was. The same command goes on.",
}

_BY_A_CHILD = ("fetch", "decode", "label")  # stages in which an image can end its process
# why an image has no label, by the reason in its row: the stages in which that can be, and what it means
REASONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "NotFound": (("fetch",), "There is no such file or object any more."),
    "AccessDenied": (("fetch",), "The store refuses this one file or object."),
    "NotAllowed": (("fetch",), "The image, or where it is redirected to, is outside of `storage.allow`."),
    "Unreadable": (("fetch",), "The store cannot give this one file or object."),
    "BadUri": (("fetch",), "The URI names no place. That is of Python: a run refuses a list that holds such a URI."),
    "Changed": (("fetch",), "The file is another one than was listed. The next run takes it as a changed image."),
    "Empty": (("decode",), "The file has 0 bytes."),
    "NotAnImage": (("decode",), "The bytes are no format that is read."),
    "Truncated": (("decode",), "The file ends before its image does."),
    "Corrupt": (("decode",), "The image cannot be decoded."),
    "TooManyPixels": (("decode",), "The image has more pixels than `input.max_pixels`."),
    "ZeroSize": (("decode",), "The image has a width or height of 0."),
    "UnsupportedMode": (("decode",), "The pixels are of a kind that no rule turns into RGB."),
    "HeicUnsupported": (("decode",), "HEIC images need the extra `heic`."),
    "TooThin": (("preprocess",), "Resized for the model, the image would be narrower than the model takes."),
    "LargerThanPadSize": (("preprocess",), "Resized, the image is larger than the processor's `pad_size`."),
    "CannotResize": (("preprocess",), "torch cannot resize the image so far."),
    "NanLogits": (("postprocess",), "The model gave NaN or infinite logits for the image."),
    "Crashed": (_BY_A_CHILD, "The image has ended a process of its own three times, as a segmentation fault does."),
    "Killed": (_BY_A_CHILD, "A process of its own was killed three times at the image, most likely for its memory."),
    "TimedOut": (_BY_A_CHILD[1:], "A process of its own has had no result three times within the limit."),
}


class Plain(str):
    """A value that messages show without quotes, such as a place that is a whole URI.

    >>> str(UsageError("is a file", field="output.uri", value=Plain("/a/b"), hint="give a directory"))
    'output.uri: /a/b is a file; give a directory'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class CommandError(Exception):
    """Ends a command with one message and an exit code.

    ``field`` is the config key, option or argument that is wrong, and ``value`` what it was given, or the part of that
    which is wrong. ``problem`` says what is wrong with it, ``allowed`` what it takes and ``hint`` what to do. A problem
    that begins with a colon stands directly behind the value. Texts of the user that are not the value stand in quotes,
    because ``in_words`` renames the fields outside them.

    >>> str(UsageError("is not known", field="--to", value="voc", allowed="coco, yolo"))
    "--to: 'voc' is not known; allowed: coco, yolo"
    >>> str(UsageError(": there is no such folder", field="data.train", value="a"))
    "data.train: 'a': there is no such folder"
    """

    exit_code: int

    def __init__(
        self,
        problem: str,
        *,
        field: str = "",
        value: object | Literal[_Absent.ABSENT] = ABSENT,
        allowed: str = "",
        hint: str = "",
    ) -> None:
        self.problem, self.field, self.value, self.allowed, self.hint = problem, field, value, allowed, hint
        super().__init__(_message(problem, field, value, allowed, hint))

    @classmethod
    def about(cls, field: str, error: Exception, *, hint: str = "") -> Self:
        """Return the mistake that ``error`` is in ``field``, which then stands before all that ``error`` says.

        >>> str(UsageError.about("DEST", UsageError("is a folder", value="a/")))
        "DEST: 'a/' is a folder"
        """
        if not isinstance(error, CommandError) or error.field:
            return cls(str(error), field=field, hint=hint)
        found = cls(error.problem, field=field, value=error.value, allowed=error.allowed, hint=error.hint)
        return found.with_hint(hint)

    def with_hint(self, hint: str) -> Self:
        """Return the same mistake with one thing more that can be done about it."""
        hints = "; ".join(filter(None, (self.hint, hint)))
        return type(self)(self.problem, field=self.field, value=self.value, allowed=self.allowed, hint=hints)

    def with_field(self, field: str) -> Self:
        """Return the same mistake in a field of another name, which takes the place of ``self.field``."""
        return type(self)(self.problem, field=field, value=self.value, allowed=self.allowed, hint=self.hint)

    def in_words(self, names: Mapping[str, str]) -> Self:
        """Return the same mistake with other ``names`` of fields, in all but its value.

        >>> error = UsageError("has no PNG", field="data.train_masks", value="data.train", hint="see data.train")
        >>> str(error.in_words({"data.train": "SRC", "data.train_masks": "--masks"}))
        "--masks: 'data.train' has no PNG; see SRC"
        """
        field, problem, allowed, hint = (
            renamed(text, names) for text in (self.field, self.problem, self.allowed, self.hint)
        )
        return type(self)(problem, field=field, value=self.value, allowed=allowed, hint=hint)


class UsageError(CommandError):
    """The command, its config or its input is wrong."""

    exit_code = 2

    @classmethod
    def of_all(cls, errors: Sequence["UsageError"]) -> "UsageError":
        """Return several ``errors`` as one of a line each, and a single one as it is.

        >>> str(UsageError.of_all([UsageError("is a file", field="a"), UsageError("is a folder", field="b")]))
        'a: is a file\\nb: is a folder'
        """
        return errors[0] if len(errors) == 1 else cls("\n".join(map(str, errors)))


class ArgumentError(UsageError, ValueError):
    """A caller's mistake in Python: ``field`` is the argument that is wrong.

    >>> isinstance(ArgumentError("is not known", field="task", value="instances"), ValueError)
    True
    """

    def in_words(self, names: Mapping[str, str]) -> Self:
        """Return the same mistake in the words of a caller, without flags.

        ``names`` are the arguments by key or by what stands for them on a command line. The argument of another flag
        has its name with underscores, and a setting is shown as it is written in Python.

        >>> error = ArgumentError("is not known", field="--to", hint="see --mask-suffix, --set 'data.names=[a]'")
        >>> str(error.in_words({"data.names": "names"}))
        "to: is not known; see mask_suffix, names=['a']"
        """
        field, problem, allowed, hint = (
            without_flags(text, names) for text in (self.field, self.problem, self.allowed, self.hint)
        )
        return type(self)(problem, field=field, value=self.value, allowed=allowed, hint=hint)


class RunError(CommandError):
    """The run cannot go on (lost bucket, expired credentials, a model that does not load). What is committed stays."""

    exit_code = 1


def _message(problem: str, field: str, value: object, allowed: str, hint: str) -> str:
    """Return the one line that a user reads."""
    if value is not ABSENT:
        problem = f"{value!r}{problem}" if problem.startswith(":") else f"{value!r} {problem}"
    text = f"{field}: {problem}" if field else problem
    text += f"; allowed: {allowed}" if allowed else ""
    return text + (f"; {hint}" if hint else "")


@contextmanager
def in_arguments(names: Mapping[str, str]) -> Iterator[None]:
    """Raise a UsageError from below as an ArgumentError, and any CommandError with the ``names`` of arguments.

    >>> with in_arguments({"model.uri": "model"}):                           # doctest: +IGNORE_EXCEPTION_DETAIL
    ...     raise UsageError("is not given", field="model.uri")
    Traceback (most recent call last):
    ArgumentError: model: is not given
    """
    try:
        yield
    except UsageError as error:
        mistake = ArgumentError(
            error.problem, field=error.field, value=error.value, allowed=error.allowed, hint=error.hint
        )
        raise mistake.in_words(names) from error.__cause__
    except CommandError as error:  # of any class: some have more to say, and are made otherwise
        texts = (error.field, error.problem, error.allowed, error.hint)
        error.field, error.problem, error.allowed, error.hint = (without_flags(text, names) for text in texts)
        error.args = (_message(error.problem, error.field, error.value, error.allowed, error.hint),)
        raise


def without_flags(text: str, names: Mapping[str, str]) -> str:
    """Return a text with the ``names`` of arguments in place of keys and flags.

    A command that Python has as a function is shown as that. A command line with words of its own stays as it is.

    >>> without_flags("m2f-batch lint shows all; see --set a.b=cuda and --mask-suffix", {"a.b": "b"})
    "m2f_batch.lint shows all; see b='cuda' and mask_suffix"
    >>> without_flags("SRC: give 'm2f-batch lint SRC --json b' or m2f-batch status SRC", {"SRC": "source"})
    "source: give 'm2f-batch lint SRC --json b' or m2f-batch status SRC"
    """
    parts = _COMMAND_LINE.split(_COMMAND.sub(r"m2f_batch.\1", text))
    return "".join(part if at % 2 else _in_python(part, names) for at, part in enumerate(parts))


def _in_python(text: str, names: Mapping[str, str]) -> str:
    text = re.sub(r"--set (?:'([^']*)'|([^\s'=]+=[^\s;,)]*))", lambda found: _setting(found[1] or found[2]), text)
    text = renamed(text, {**names, "--config": "config"})
    return re.sub(r"(?<![\w./'\"-])--([a-z][a-z-]*[a-z])", lambda found: found[1].replace("-", "_"), text)


def _setting(text: str) -> str:
    """Return a KEY=VALUE with its value as it is written in Python, as it is where that is no value of YAML."""
    key, _, value = text.partition("=")
    try:
        return f"{key}={yaml.safe_load(value)!r}"
    except (yaml.YAMLError, ValueError):  # a date such as 2001-99-99
        return text


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with other ``names`` of fields, each of which is taken as a whole, the longest first.

    What stands in quotes or in a path is a value, and stays as it is.

    >>> names = {"data.train": "SRC", "data.train_images": "--images"}
    >>> renamed("/a/data.train/b: data.train_images: folder of data.train, not of 'data.train'", names)
    "/a/data.train/b: --images: folder of SRC, not of 'data.train'"
    """
    if not names or not text:
        return text
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w./'\"-])(?:{known})(?![\w/'\"]|[.-]\w)", lambda found: names[found[0]], text)


class TransientError(Exception):
    """A fault that may pass (throttling, reset, timeout), with its retries spent. Never becomes a row."""


class ImageError(Exception):
    """One image that cannot be labeled: becomes a row with status ``error``.

    ``stage`` is where (fetch, decode, preprocess, label, postprocess), ``reason`` a short stable code, ``index`` the
    position in the caller's list when there is one. ``size_hw`` is the image's size in pixels when it is known all the
    same. ``field`` is the setting that refused the image, if one did. ``self.message`` ends with its name.
    """

    def __init__(
        self,
        stage: str,
        reason: str,
        message: str,
        *,
        index: int | None = None,
        size_hw: tuple[int, int] | None = None,
        field: str = "",
    ) -> None:
        super().__init__(stage, reason, message)
        self.stage, self.reason, self.field = stage, reason, field
        self.message = f"{message} ({field})" if field else message
        self.index, self.size_hw = index, size_hw

    def __str__(self) -> str:
        where = "" if self.index is None else f"image {self.index}: "
        return f"{where}{self.stage}: {self.reason}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), *self.args), self.__dict__


class DecodeError(ImageError):
    """Bytes that are no image by the decode policy, or an image over the pixel cap."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        index: int | None = None,
        size_hw: tuple[int, int] | None = None,
        field: str = "",
    ) -> None:
        super().__init__("decode", reason, message, index=index, size_hw=size_hw, field=field)

    def with_field(self, field: str) -> "DecodeError":
        """Return the same refusal by a setting of another name, ``field``, or the same error where none made it."""
        message: str = self.args[2]  # without the field
        named = field if self.field else ""
        return DecodeError(self.reason, message, index=self.index, size_hw=self.size_hw, field=named)


def _rebuild(kind: type[ImageError], stage: str, reason: str, message: str) -> ImageError:
    return kind(reason, message) if issubclass(kind, DecodeError) else kind(stage, reason, message)
