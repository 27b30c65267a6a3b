"""Keys and tokens masked in text.

What is masked: the values of the environment variables that hold keys, and of the files that others name or that are
looked for in a home (AWS credentials, tokens of the hub and of Ray); the user and password of a URL; secret parts of
presigned URLs, headers, connection strings and answers of token services; and what looks like a key whatever it stands
in: AWS key ids, Hugging Face tokens, JSON web tokens, private keys in PEM. Ordinary URIs, paths and messages stay as
they are.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
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
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_CLIENT_SECRET",
)
FILE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "HF_TOKEN_PATH",
    "RAY_AUTH_TOKEN_PATH",
)
# (the variable that names a folder, a file in it)
FOLDER_FILES = (
    ("HF_HOME", "token"),
    ("XDG_CACHE_HOME", "huggingface/token"),
    ("HOME", ".cache/huggingface/token"),
    ("HOME", ".ray/auth_token"),
)
# (the variable that names the file, where it is in a home otherwise): profiles of "key = value"
PROFILES = (("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config"))
MIN_LENGTH = 8  # the shortest secret that S3 servers take; "test" is no secret, and is part of ordinary words
MAX_FILE_BYTES = 16384

_END = r"""\s"'<>"""  # what ends a URL in a text
_PROFILE_KEY = re.compile(r"(?m)^\s*aws_(?:access_key_id|secret_access_key|session_token|security_token)\s*=\s*(\S+)")
_ACCOUNT_KEY = re.compile(r"(?i)AccountKey=([^;\s]+)")
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
)


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """A text without keys and tokens; twice is the same as once.

    >>> redact("GET https://me:pass@host/a.jpg?X-Amz-Signature=0f3c&X-Amz-Expires=60 by AKIAIOSFODNN7EXAMPLE")
    'GET https://***:***@host/a.jpg?X-Amz-Signature=***&X-Amz-Expires=60 by AKIA***'
    """
    return masked(text, secrets_of(environ))


def masked(text: str, secrets: list[str]) -> str:
    """A text without these secrets, and without what is recognised for one by its shape or its place."""
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
    found |= {_file_text(f"{environ[folder]}/{name}") for folder, name in FOLDER_FILES if environ.get(folder)}
    found |= {*_ACCOUNT_KEY.findall(environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))}
    home = environ.get("HOME")
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
