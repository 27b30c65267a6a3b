"""Masks keys and tokens in text. ``log_values`` applies it to log lines, and ``terminal`` makes text printable.

Masked are the values of the environment variables that hold keys, and the texts of the files that others name or that
are looked for in a home (AWS credentials, tokens of the hub and of Ray). So are the user and password of a URL, and
secret parts of presigned URLs, headers, connection strings and answers of token services. Whatever it stands in, so is
what looks like a key: AWS key ids, Hugging Face tokens, JSON web tokens, private keys in PEM. Ordinary URIs, paths and
messages stay as they are.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from urllib.parse import quote

from m2f_batch.backends import Backend, all_backends

MASK = "***"
# of Ray, whose token no store knows
RAY_SECRETS, RAY_SECRET_FILES, RAY_SECRET_FILES_IN = (
    ("RAY_AUTH_TOKEN",),
    ("RAY_AUTH_TOKEN_PATH",),
    (("HOME", ".ray/auth_token"),),
)
MIN_LENGTH = 8  # the shortest secret that S3 servers take. "test" is no secret, and is part of ordinary words
MAX_FILE_BYTES = 16384

_END = r"""\s"'<>"""  # what ends a URL in a text
_PORT = rf"\d{{1,5}}(?![^/?#,;)\]}}{_END}])"


@cache
def secret_variables() -> tuple[str, ...]:
    """Returns the environment variables whose values are masked: those of every kind of store, and Ray's."""
    return (*(name for backend in all_backends() for name in backend.secrets), *RAY_SECRETS)


@cache
def secret_file_variables() -> tuple[str, ...]:
    """Returns the environment variables that name a file whose text is masked."""
    return (*(name for backend in all_backends() for name in backend.secret_files), *RAY_SECRET_FILES)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Returns what a secret is known by in any text, whichever store it is of, and what takes its place."""
    names = "|".join(map(re.escape, secret_variables()))
    patterns = (
        # scheme://user:password@host, also with an unencoded "/" or "@" in the password, as long as it is not host:port
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
        (rf"(?i)((?:{names})\s*=\s*['\"]?)[^&,;{_END}]+", rf"\1{MASK}"),
        (rf"(?i)((?:{names})(['\"]):\s*(['\"]))[^'\"]+(?=\3)", rf"\1{MASK}"),
        # answers of the metadata service, of STS and of OAuth, as JSON, printed dicts and XML
        (
            r"(?i)(\b(?:SecretAccessKey|(?:Session|access_|refresh_|id_)?Token)\\?['\"]\s*:\s*b?\\?['\"])[^\\\s'\"]{16,}",
            rf"\1{MASK}",
        ),
        (r"(?i)(<(?:SecretAccessKey|SessionToken)>)[^<]+", rf"\1{MASK}"),
        # connection strings of Azure
        (rf"(?i)(\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=)[^;&{_END}]+", rf"\1{MASK}"),
        (r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}", rf"\1{MASK}"),
        (
            r"(?s)(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----\n?).*?(\n?-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
            rf"\1{MASK}\2",
        ),
        (r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])", rf"\1{MASK}"),
        (r"\bhf_[A-Za-z0-9]{30,}", f"hf_{MASK}"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", MASK),
    )
    return tuple((re.compile(pattern), replacement) for pattern, replacement in patterns)


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Returns a text without keys and tokens. Twice is the same as once.

    >>> redact("GET https://me:pass@host/a.jpg?X-Amz-Signature=0f3c&X-Amz-Expires=60 by AKIAIOSFODNN7EXAMPLE")
    'GET https://***:***@host/a.jpg?X-Amz-Signature=***&X-Amz-Expires=60 by AKIA***'
    """
    return masked(text, secrets_of(environ))


def masked(text: str, secrets: list[str]) -> str:
    """Returns a text without these secrets, and without what its shape or its place shows to be one."""
    if len(text) < MIN_LENGTH - 1:  # too short for a secret, and for "://a:b@"
        return text
    for secret in secrets:
        text = text.replace(secret, MASK)
    for pattern, replacement in _patterns():
        text = pattern.sub(replacement, text)
    return text


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Returns the secrets that an environment holds or names, as they are and percent-encoded, the longest first."""
    found = {environ.get(name, "").strip() for name in secret_variables()}
    found |= {_file_text(environ[name]) for name in secret_file_variables() if environ.get(name)}
    files = [*RAY_SECRET_FILES_IN, *(pair for backend in all_backends() for pair in backend.secret_files_in)]
    found |= {_file_text(f"{environ[folder]}/{name}") for folder, name in files if environ.get(folder)}
    for backend in all_backends():
        found |= {*_of_profiles(backend, environ)}
        for name, pattern in backend.secret_parts:
            found |= {*re.findall(pattern, environ.get(name, ""))}
    found = {secret for secret in found if len(secret) >= MIN_LENGTH}
    return sorted(found | {quote(secret, safe="") for secret in found}, key=len, reverse=True)


def _of_profiles(backend: Backend, environ: Mapping[str, str]) -> Iterator[str]:
    """Yields the secrets in a store's files of ``key = value`` lines."""
    home, keys = environ.get("HOME"), "|".join(backend.profile_keys)
    for name, default in backend.profiles:
        path = environ.get(name) or (home and f"{home}/{default}")
        yield from re.findall(rf"(?m)^\s*(?:{keys})\s*=\s*(\S+)", _file_text(path)) if path else ()


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
