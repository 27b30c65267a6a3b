"""Writes how a command has ended as one JSON object, for schedulers and scripts: ``--result FILE``.

    {"command": "segment", "exit_code": 0, "retry": false, "output": "s3://bucket/labels", "run_id": "...",
     "totals": {"images": {...}, "segments": 7, "errors": {...}, ...}, "error": null, "submission_id": null,
     "started_at": "...", "finished_at": "..."}

``retry`` says whether the same command may end otherwise when it is given again: not after 0, 2 and 3, but after 1,
130, and 137 of a job whose driver was killed. ``submit follow`` of a job that has ended says false, because it ends so
each time. ``output`` is RUN for evaluate. What a command did not get to know is null. Under the name ``-`` it is the
last line of stdout, and has ``"event": "result"`` besides, which is how ``submit`` reads it from a job's log.

FILE has at most 4096 bytes, because Kubernetes cuts ``/dev/termination-log`` there. It is emptied at the start and
written once. It is never replaced by another file, because a mount refuses that. It stays empty where the process was
killed, or where Ray ended it because its head was lost. Functions return an ``Outcome``, and hand it to ``report``
on the way, because one that is stopped returns nothing. Commands ``tell`` it, and the command line writes it.
"""

import argparse
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Generic, NoReturn, TypeVar

from m2f_batch.errors import UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.messages.spoken import now

VARIABLE = "M2F_BATCH_RESULT"  # the FILE where no flag names one
STDOUT = "-"
MAX_BYTES = 4096
MAX_TEXT = 1000  # characters of an error
FINAL = frozenset({0, 2, 3})  # exit codes that the same command would end with again
FIELDS = ("output", "run_id", "totals", "error", "submission_id")
TELLABLE = frozenset({*FIELDS, "retry"})  # retry: where it does not follow from the exit code

Totals = TypeVar("Totals", covariant=True)


@dataclass(frozen=True)
class Outcome(Generic[Totals]):
    """The end of a job, or how far it is: what is not known is None.

    Attributes:
        output: OUTPUT of the job, or the run that was measured.
        run_id: the id of the run or training.
        totals: counts, a dataclass or a mapping.
        exit_code: what the command ends with.
        error: why that is not 0.
        submission_id: of a job on a cluster.
        retry: whether the same command may end otherwise, where that does not follow from the exit code.
        warnings: what somebody should know of the plan or the run, one sentence each. The command line has said it.
    """

    output: str | None = None
    run_id: str | None = None
    totals: Totals | None = None
    exit_code: int = 0
    error: str | None = None
    submission_id: str | None = None
    retry: bool | None = None
    warnings: tuple[str, ...] = ()


Report = Callable[[Outcome[Totals]], None]


def warnings_in(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines for a person that warn of something or note it, without that word.

    >>> warnings_in(["data    3 images", "        warning: no label is stuff", "note    7 steps are few"])
    ('no label is stuff', '7 steps are few')
    """
    found = (re.fullmatch(r"\s*(?:warning|note)\b:?\s*(.*)", line) for line in lines)
    return tuple(match[1] for match in found if match)


def unheard(_: object) -> None:
    """Let a report or a line go that nobody wants."""


# of the command that this process runs
_said: dict[str, Any] = {}
_files: list[str] = []  # FILE, where one is wanted


def tell(**fields: Any) -> None:
    """Say what the result shall hold, some of ``TELLABLE``. The last word on a field wins."""
    if unknown := fields.keys() - TELLABLE:
        raise ValueError(f"no fields of a result: {sorted(unknown)}")
    _said.update(fields)


def is_wanted() -> bool:
    """Tell whether anybody asked for a result, so that what only it needs is worth reading."""
    return bool(_files)


def tell_outcome(outcome: Outcome[object]) -> None:
    """Tell what is known of an outcome."""
    known = {name: getattr(outcome, name) for name in TELLABLE if getattr(outcome, name) is not None}
    if is_dataclass(totals := known.get("totals")) and not isinstance(totals, type):
        known["totals"] = asdict(totals)
    tell(**known)


class Result:
    """The result of one command line, all of which is ``arguments``.

    ``takes_result`` tells whether the command of a name has ``--result``. It is asked only about a command line that
    could not be parsed.
    """

    def __init__(self, arguments: Sequence[str], takes_result: Callable[[str], bool]) -> None:
        _said.clear()
        _files.clear()
        self._takes_result = takes_result
        self._arguments, self._started_at = list(arguments), now()
        self._command = arguments[0] if arguments else ""
        self._file: str | None = None

    def begin(self, file: str | None) -> None:
        """Take ``file``, as it was parsed, for the result of a command that has one, and empty it.

        Raises UsageError where that is impossible, or where it holds something else than a result.
        """
        file = file or os.environ.get(VARIABLE)
        if not file:
            return
        if file != STDOUT:
            file = _local(file)
            try:
                _check_free(file)
                _write(file, b"")
            except OSError as error:
                raise UsageError(
                    f"cannot be written ({error.strerror})",
                    field="--result",
                    value=file,
                    hint="give a file in a folder that exists",
                ) from None
        self._file = file
        _files.append(file)

    def end(self, exit_code: int) -> None:
        """Write how it has ended. Raises OSError where FILE cannot be written any more."""
        if self._file is None and exit_code == UsageError.exit_code:
            self._file = self._file_of_a_mistake()
        if self._file is None:
            return
        fields = {name: _said.get(name) for name in FIELDS}
        error, retry = fields["error"], _said.get("retry", exit_code not in FINAL)
        document = {"command": self._command, "exit_code": exit_code, "retry": retry, **fields}
        document |= {"error": error and redact(str(error)), "started_at": self._started_at, "finished_at": now()}
        if document["output"] is not None:
            document["output"] = redact(str(document["output"]))
        with _undisturbed():
            if self._file == STDOUT:
                head = {"time": document["finished_at"], "level": "info", "event": "result"}
                print(fitting(head | document), flush=True)
            else:
                _write(self._file, fitting(document).encode() + b"\n")

    def _file_of_a_mistake(self) -> str | None:
        """FILE of a command line that could not be parsed, if it names one that can be written."""
        if not self._takes_result(self._command):
            return None
        try:
            given, _ = _ResultParser(add_help=False, allow_abbrev=False).parse_known_args(self._arguments)
            self.begin(given.result)
        except (UsageError, ValueError):
            return None
        return self._file


class _ResultParser(argparse.ArgumentParser):
    """Takes ``--result`` from whatever else there is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--result")

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def fitting(document: Mapping[str, Any]) -> str:
    """A result as one line of at most ``MAX_BYTES`` with its line break, without the longest texts where needed.

    >>> len(fitting({"error": "x" * 9999, "totals": None}))
    1032
    """
    document = dict(document)
    for most in (MAX_TEXT, 200):
        document["error"] = shortened(document["error"], most)
        if len(text := json.dumps(document)) < MAX_BYTES:
            return text
    document["totals"] = _fewer(document["totals"])
    if len(text := json.dumps(document)) < MAX_BYTES:
        return text
    for name in ("output", "submission_id"):
        document[name] = shortened(document.get(name), 200)
    document["error"] = None if document["error"] is None else "too long to be told here"
    return json.dumps(document)


def shortened(text: str | None, most: int) -> str | None:
    """A text of at most so many characters and three dots."""
    return text if text is None or len(text) <= most else f"{text[:most]}..."


def _fewer(totals: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return totals with the ten most frequent reasons of errors, without any that are long."""
    if totals is None:
        return None
    kept = dict(totals)
    if isinstance(reasons := kept.get("errors"), dict):
        kept["errors"] = {
            key[:80]: count for key, count in sorted(reasons.items(), key=lambda pair: -int(pair[1]))[:10]
        }
    return {name: value for name, value in kept.items() if len(json.dumps(value)) < MAX_BYTES // 3}


def result_in(log: str) -> dict[str, Any] | None:
    """Return the last result that a job's log holds, None where it has none."""
    for line in reversed(log.splitlines()):
        if '"event": "result"' not in line:
            continue
        try:
            found = json.loads(line[line.index("{") :])
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("event") == "result":
            return found
    return None


def _local(file: str) -> str:
    if "://" in file:
        raise UsageError(
            "is no local file", field="--result", value=redact(file), hint="give a path on this machine, or -"
        )
    return os.path.expanduser(file)


def _check_free(file: str) -> None:
    """Raise UsageError for a file that is no earlier result, such as a run.json or annotations."""
    if not os.path.isfile(file) or not os.path.getsize(file):
        return
    with open(file, "rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"command", "exit_code", "retry"} <= found.keys():
        raise UsageError(
            "holds something else than a result", field="--result", value=file, hint="remove it, or give another file"
        )


def _write(file: str, data: bytes) -> None:
    """Write in one call into the file itself: what stands there may be a device, or a mount that cannot be replaced."""
    with open(file, "wb", buffering=0) as handle:
        if data:
            handle.write(data)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C while the end of the first one is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
