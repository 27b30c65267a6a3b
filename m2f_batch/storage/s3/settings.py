"""Settles how S3 is asked, by ``storage.s3`` of the job that this process runs and by the environment.

Where a key is not set, the variable counts that GDAL reads for the same: ``AWS_VIRTUAL_HOSTING``,
``AWS_REQUEST_PAYER``, ``AWS_NO_SIGN_REQUEST``. They serve the commands that have no config, too.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from m2f_batch.config.loading import check_config
from m2f_batch.config.storage import S3Config
from m2f_batch.errors import UsageError

OF_DRIVER = "M2F_BATCH_S3_OF_DRIVER"  # what a driver was told, for its workers: S3Config as JSON
STYLE, PAYER, UNSIGNED = "AWS_VIRTUAL_HOSTING", "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST"
_WORDS = {"YES": True, "TRUE": True, "ON": True, "1": True, "NO": False, "FALSE": False, "OFF": False, "0": False}

_of_job: S3Config | None = None  # of the job that this process runs


@contextmanager
def using(settings: S3Config) -> Iterator[None]:
    """Lets this process ask S3 as a job says. Raises UsageError for variables that are wrong.

    All threads do, so a process runs one job at a time.
    """
    global _of_job
    before = _of_job
    _of_job = settings
    try:
        current()
        yield
    finally:
        _of_job = before


def recorded(config: Mapping[str, Any]) -> S3Config:
    """Return the settings in the config of a run.json. Those that it lacks are not set."""
    storage = config.get("storage") or {}
    return check_config(S3Config, {key: value for key, value in (storage.get("s3") or {}).items() if value})


def current() -> S3Config:
    """Returns what counts now. Raises UsageError for a variable whose value is none of those allowed."""
    return _current(_text(), *(os.environ.get(name) for name in (STYLE, PAYER, UNSIGNED)))


def environment() -> dict[str, str]:
    """Returns the variable that tells other processes of a job how to ask, or nothing where the job says nothing."""
    text = _text()
    return {OF_DRIVER: text} if text else {}


def is_of_job() -> bool:
    """Tells whether the job has settings of its own, which workers know only from ``environment``."""
    return _of_job is not None and bool(_text())


def _text() -> str:
    """Returns what this process's job says, or its driver, as JSON without what is not set. "" stands for nothing."""
    if _of_job is None:
        return os.environ.get(OF_DRIVER, "")
    text = _of_job.model_dump_json(exclude_unset=True, exclude_none=True)
    return "" if text == "{}" else text


def is_anonymous(bucket: str) -> bool:
    """Tells whether requests for a bucket are sent without a signature."""
    anonymous = current().anonymous
    return anonymous if isinstance(anonymous, bool) else bucket in anonymous


@lru_cache(maxsize=8)
def _current(given: str, style: str | None, payer: str | None, unsigned: str | None) -> S3Config:
    if payer not in (None, "", "requester"):
        raise UsageError("is not known", field=PAYER, value=payer, allowed="requester")
    styles = {None: None, True: "virtual", False: "path"}
    of_variables = {
        "addressing_style": styles[_flag(STYLE, style)],
        "request_payer": payer or None,
        "anonymous": _flag(UNSIGNED, unsigned),
    }
    said = S3Config.model_validate_json(given or "{}").model_dump(exclude_unset=True)
    tree = {key: value for key, value in of_variables.items() if value is not None} | said
    if tree.get("anonymous") is True and "request_payer" in tree:  # what the job says, else what costs nothing
        del tree["anonymous" if "request_payer" in said else "request_payer"]
    return S3Config.model_validate(tree)


def _flag(name: str, value: str | None) -> bool | None:
    if not value:
        return None
    if value.upper() not in _WORDS:
        raise UsageError("is not known", field=name, value=value, allowed="YES, NO")
    return _WORDS[value.upper()]
