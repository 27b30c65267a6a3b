"""Keys and tokens masked in text, before it is logged or printed.

What is masked: the values of the environment variables that hold keys, and of the files that others name or that are
looked for in a home (AWS credentials, tokens of the hub and of Ray); the user and password of a URL; secret parts of
presigned URLs and of headers; and what looks like a key whatever it stands in: AWS key ids, Hugging Face tokens, JSON
web tokens. Ordinary URIs, paths and messages stay as they are.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

MASK = "***"
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_AUTH_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
)
FILE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "HF_TOKEN_PATH",
    "RAY_AUTH_TOKEN_PATH",
)
HOME_FILES = (".cache/huggingface/token", ".ray/auth_token")
# (the variable that names the file, where it is in a home otherwise): profiles of "key = value"
PROFILES = (("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config"))
MIN_LENGTH = 8  # the shortest secret that S3 servers take; "test" is no secret, and is part of ordinary words
MAX_FILE_BYTES = 16384
MAX_TEXT = 16384  # characters of one text in a log line: one endless message must not push all others out

_END = r"""\s"'<>"""  # what ends a URL in a text
_PROFILE_KEY = re.compile(r"(?m)^\s*aws_(?:access_key_id|secret_access_key|session_token|security_token)\s*=\s*(\S+)")
_PORT = rf"\d{{1,5}}(?![^/?#,;)\]}}{_END}])"
_NAMES = "|".join(VARIABLES)
_PATTERNS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # scheme://user:password@host; an unencoded "/" or "@" in the password too, as long as it is not host:port
        (
            rf"(?<=://)(?!\[)[^/?#@:{_END}]{{0,256}}:(?!{_PORT})(?:[^/?#{_END}]{{0,2048}}|[^{_END}]{{0,2048}}?)@",
            f"{MASK}:{MASK}@",
        ),
        # presigned URLs (also nested in another URL's query) and headers, those of a printed dict too
        (
            rf"(?i)(x-(?:amz|goog)-(?:signature|credential|security-token)['\"]?\s*(?:=|:|%3D)\s*b?['\"]?)[^&,{_END}]+",
            rf"\1{MASK}",
        ),
        (rf"(?i)((?:[?&;]|&amp;)(?:AWSAccessKeyId|Signature|sig)=)[^&{_END}]+", rf"\1{MASK}"),
        (
            rf"(?i)([?&](?:access_key|secret_key|account_key|sas_token|token|session_token|password)=)[^&{_END}]+",
            rf"\1{MASK}",
        ),
        (r"(\b(?:Credential|Signature)=)[A-Za-z0-9/+_%-]{16,}", rf"\1{MASK}"),
        (r"(?i)(\bauthorization['\"]?\s*[:=]\s*b?['\"]?(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]+", rf"\1{MASK}"),
        # NAME=value and 'NAME': 'value', as environments are printed, whoever's they are
        (rf"(?i)((?:{_NAMES})\s*=\s*['\"]?)[^&,;{_END}]+", rf"\1{MASK}"),
        (rf"(?i)((?:{_NAMES})(['\"]):\s*(['\"]))[^'\"]+(?=\3)", rf"\1{MASK}"),
        (r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])", rf"\1{MASK}"),
        (r"\bhf_[A-Za-z0-9]{30,}", f"hf_{MASK}"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", MASK),
    )
)
_SECRET_FIELD = re.compile(r"(?i)secret|password|passwd|access_key|account_key|api_key|(session|auth|hf|sas)_token")


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """A text without keys and tokens; twice is the same as once.

    >>> redact("GET https://me:pass@host/a.jpg?X-Amz-Signature=0f3c&X-Amz-Expires=60 by AKIAIOSFODNN7EXAMPLE")
    'GET https://***:***@host/a.jpg?X-Amz-Signature=***&X-Amz-Expires=60 by AKIA***'
    """
    return _masked(text, secrets_of(environ))


def printable(text: str, environ: Mapping[str, str] = os.environ) -> str:
    r"""``redact``, for a terminal: what would move its cursor, colour it or change its title is spelled out.

    >>> print(printable("first line\nbroken\x1b[2Jname\r.jpg", {}))
    first line
    broken\x1b[2Jname\r.jpg
    """
    clean = redact(text, environ)
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in clean)


def redacted(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """A value as JSON knows it, with every text in it redacted; texts in fields named as secrets are masked whole.

    Texts are cut after ``MAX_TEXT`` characters, once they are redacted: half a secret would not be recognised.

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
            return {_masked(str(key), secrets): _field(str(key), item, secrets) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item, secrets) for item in value]
        case _:
            text = _masked(str(value), secrets)
            return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text) - MAX_TEXT} characters more)"


def _field(name: str, value: Any, secrets: list[str]) -> Any:
    is_secret = isinstance(value, str) and value and _SECRET_FIELD.search(name)
    return MASK if is_secret else _clean(value, secrets)


def _masked(text: str, secrets: list[str]) -> str:
    if len(text) < MIN_LENGTH - 1:  # too short for a secret, and for "://a:b@"
        return text
    for secret in secrets:
        text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """The secrets that an environment holds or names, as they are and percent-encoded; the longest first."""
    found = {environ.get(name, "").strip() for name in VARIABLES}
    found |= {_file_text(environ[name]) for name in FILE_VARIABLES if environ.get(name)}
    home = environ.get("HOME")
    found |= {_file_text(f"{home}/{name}") for name in HOME_FILES if home}
    for name, default in PROFILES:
        path = environ.get(name) or (home and f"{home}/{default}")
        found |= {*_PROFILE_KEY.findall(_file_text(path))} if path else set()
    found = {secret for secret in found if len(secret) >= MIN_LENGTH}
    return sorted(found | {quote(secret, safe="") for secret in found}, key=len, reverse=True)


def _file_text(path: str) -> str:
    try:
        # tokens are replaced while a run goes on
        return _read(path, os.stat(path).st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=16)
def _read(path: str, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return file.read(MAX_FILE_BYTES).decode(errors="replace").strip()
