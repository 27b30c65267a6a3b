"""Reads the cluster's address and token, and decides before anything is sent what may be asked of whom."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from m2f_batch.errors import UsageError

FLAG = "--address"
VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's own
JOBS_API = "the cluster's Jobs API, http://HOST:8265"
TOKEN_ADVICE = (
    "give it in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token (all without "
    "RAY_AUTH_MODE=disabled)"
)


@dataclass(frozen=True)
class Address:
    """The URL of a cluster's Jobs API, without a slash at its end."""

    url: str
    is_loopback: bool  # this machine, or a tunnel from it
    is_encrypted: bool


def parse_address(given: str | None, environ: Mapping[str, str] = os.environ) -> Address:
    """Return the address of ``--address``, else of Ray's variable for it. Raises UsageError for what is none.

    >>> parse_address("http://127.0.0.1:8265/")
    Address(url='http://127.0.0.1:8265', is_loopback=True, is_encrypted=False)
    """
    text = given or environ.get(VARIABLE)
    if not text:
        raise UsageError(f"is not given, nor {VARIABLE}", field=FLAG, hint=f"give {JOBS_API}")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        url, host, port = urlsplit(""), None, None
    if "@" in url.netloc:
        raise UsageError(
            "holds a user or a password, which would be seen in logs", field=FLAG, hint="a token is given apart"
        )
    if url.scheme not in ("http", "https") or not host or port == 0 or url.query or url.fragment:
        raise UsageError("is not allowed", field=FLAG, value=text, allowed=JOBS_API)
    return Address(text.rstrip("/"), _is_loopback(host), url.scheme == "https")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_token(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> str | None:
    """Find Ray's token in the places where Ray itself looks, in Ray's order.

    None: there is none, or it is switched off. A cluster that finds a token turns authentication on unless
    ``RAY_AUTH_MODE`` says otherwise, and so does this. Raises UsageError where a token is asked for and there is none,
    or a file cannot be read.
    """
    if environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    token, where = environ.get("RAY_AUTH_TOKEN", "").strip(), "RAY_AUTH_TOKEN"
    if not token and environ.get("RAY_AUTH_TOKEN_PATH"):
        where = f"RAY_AUTH_TOKEN_PATH: {environ['RAY_AUTH_TOKEN_PATH']}"
        token = _read(where, Path(environ["RAY_AUTH_TOKEN_PATH"]))
        if not token:
            raise UsageError(f"{where} is empty", hint="it must hold Ray's token")
    if not token:
        file = (home or Path(os.path.expanduser("~"))) / ".ray" / "auth_token"  # Path.home() raises where there is none
        where = str(file)
        token = _read(where, file) if file.is_file() else ""
    if not token and environ.get("RAY_AUTH_MODE", "").lower() == "token":
        raise UsageError(f"RAY_AUTH_MODE=token, but there is no token: {TOKEN_ADVICE}")
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError("holds what is no token: blanks, line breaks or special characters within it", field=where)
    return token or None


def _read(where: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{where} cannot be read ({error})", hint="it must hold Ray's token") from None


def check_may_submit(address: Address, has_token: bool, allow_no_token: bool, how_to_allow: str) -> None:
    """Raise UsageError for another machine's cluster without a token."""
    if not (address.is_loopback or has_token or allow_no_token):
        raise UsageError(
            f"{address.url} is not this machine, and there is no token for it: whoever reaches a Ray cluster without "
            f"one runs code on it. Start it with RAY_AUTH_MODE=token, and {TOKEN_ADVICE}",
            field=FLAG,
            hint=f"or, where nobody else can reach it, {how_to_allow}",
        )
