"""How S3 is asked: ``storage.s3`` of the job that this process runs, and what the environment says beside it.

Where a key is not set, the variable counts that GDAL reads for the same: ``AWS_VIRTUAL_HOSTING``,
``AWS_REQUEST_PAYER``, ``AWS_NO_SIGN_REQUEST``. They serve the commands that have no config, too.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from m2f_batch.config import S3Config
from m2f_batch.config_loading import check_config
from m2f_batch.errors import UsageError

OF_DRIVER = "M2F_BATCH_S3_OF_DRIVER"  # what a driver was told, for its workers: S3Config as JSON
STYLE, PAYER, UNSIGNED = "AWS_VIRTUAL_HOSTING", "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST"
_WORDS = {"YES": True, "TRUE": True, "ON": True, "1": True, "NO": False, "FALSE": False, "OFF": False, "0": False}

_of_job: S3Config | None = None  # of the job that this process runs


@contextmanager
def using(settings: S3Config) -> Iterator[None]:
    """Meanwhile this process asks S3 as a job says. Raises UsageError for variables that are wrong.

    All threads do: one job at a time.
    """
    global _of_job
    before = _of_job
    _of_job = settings
    try:
        current()
        yield
    finally:
        _of_job = before


def recorded(info: Mapping[str, Any]) -> S3Config:
    """The settings in a run's ``run.json``; the defaults where it has none, as those of older versions."""
    storage = info.get("config", {}).get("storage") or {}
    return check_config(S3Config, storage.get("s3") or {})


def current() -> S3Config:
    """What counts now. Raises UsageError for a variable whose value is none of those allowed."""
    return _current(_of_job, *(os.environ.get(name) for name in (OF_DRIVER, STYLE, PAYER, UNSIGNED)))


def environment() -> dict[str, str]:
    """The variable that tells other processes of a job how to ask; empty where the job says nothing of it."""
    told = os.environ.get(OF_DRIVER) if _of_job is None else _of_job.model_dump_json(exclude_defaults=True)
    return {OF_DRIVER: told} if told and told != "{}" else {}


def is_of_job() -> bool:
    """Whether the job has settings of its own, which workers know only from ``environment``."""
    return _of_job is not None and _of_job != S3Config()


def is_anonymous(bucket: str) -> bool:
    """Whether requests for a bucket are sent without a signature."""
    anonymous = current().anonymous
    return anonymous if isinstance(anonymous, bool) else bucket in anonymous


@lru_cache(maxsize=8)
def _current(
    ours: S3Config | None, driver: str | None, style: str | None, payer: str | None, unsigned: str | None
) -> S3Config:
    given = ours if ours is not None else S3Config.model_validate_json(driver or "{}")
    if payer not in (None, "", "requester"):
        raise UsageError(f"{PAYER}: {payer!r} is not known; allowed: requester")
    is_virtual, is_unsigned = _flag(STYLE, style), _flag(UNSIGNED, unsigned)
    styles = {None: None, True: "virtual", False: "path"}
    tree = {"addressing_style": styles[is_virtual], "request_payer": payer or None, "anonymous": is_unsigned or False}
    if given.request_payer is not None:
        tree["anonymous"] = False  # who pays is known by keys
    elif given.anonymous is True or (tree["anonymous"] and not given.anonymous):
        tree["request_payer"] = None
    return S3Config.model_validate(tree | given.model_dump(exclude_defaults=True))


def _flag(name: str, value: str | None) -> bool | None:
    if not value:
        return None
    if value.upper() not in _WORDS:
        raise UsageError(f"{name}: {value!r} is not known; allowed: YES, NO")
    return _WORDS[value.upper()]
