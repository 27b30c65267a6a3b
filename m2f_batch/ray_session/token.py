"""Makes Ray's token on this machine before Ray does, because Ray 2.60 makes it in a file that all users may read.

This module can go once Ray keeps it private: then tests/unit/ray_session/test_token.py fails and says so.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def keep_private(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> None:
    """Make the token that a local Ray would make, for its owner alone, unless there is one or none is wanted.

    Errors are ignored, because Ray reports them itself.
    """
    mode = environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    with suppress(OSError, RuntimeError):  # RuntimeError: this user has no home
        file = (home or Path.home()) / ".ray" / "auth_token"
        if file.exists():
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = file.with_name(f".auth_token-{secrets.token_hex(8)}")
        try:
            _write(made)
            os.link(made, file)  # whole or not at all, and never over another one
        except FileExistsError:  # of another job that begins now
            return
        except OSError:  # a file system without hard links
            _write(file)
        finally:
            made.unlink(missing_ok=True)


def _write(file: Path) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write(secrets.token_hex(32))
