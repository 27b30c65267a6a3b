"""Masks the secrets in the values of log lines (see ``masking``), and cuts endless texts in them."""

import os
import re
from collections.abc import Mapping
from typing import Any

from m2f_batch.messages.masking import MASK, masked, secrets_of

MAX_TEXT = 16384  # characters of one text in a log line: one endless message must not push all others out

_SECRET_FIELD = re.compile(
    r"(?i)secret|password|passwd|access_key|account_?key|connection_string|api_key|(session|auth|hf|sas)_token"
)


def redacted(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Returns a value as JSON knows it, with every text in it redacted, and texts in fields of secrets masked whole.

    Texts are cut after ``MAX_TEXT`` characters, once they are redacted, because half a secret is not recognized.

    >>> redacted({"password": "x", "uris": ("s3://k:s@bucket/a", 1, None)})
    {'password': '***', 'uris': ['s3://***:***@bucket/a', 1, None]}
    """
    return _clean(value, secrets_of(environ))


def _clean(value: Any, secrets: list[str]) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if abs(value) < float("inf") else str(value)  # JSON has no NaN and no infinity
        case Mapping():
            return {masked(str(key), secrets): _field(str(key), item, secrets) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item, secrets) for item in value]
        case _:
            text = masked(str(value), secrets)
            return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text) - MAX_TEXT} characters more)"


def _field(name: str, value: Any, secrets: list[str]) -> Any:
    is_secret = isinstance(value, str) and value and _SECRET_FIELD.search(name)
    return MASK if is_secret else _clean(value, secrets)
