"""Keeps compiled Python for the processes of a local Ray.

A worker imports some 4000 modules with torch and transformers. Where they were never compiled (uv does not unless asked
to) and Python may not write beside them (PYTHONDONTWRITEBYTECODE, a read-only image), each worker compiles them anew:
8 seconds of CPU instead of 4, at every start.

A workaround as of Ray 2.60, which starts each worker as a new interpreter with the driver's variables. When Ray is
upgraded, run a job under PYTHONDONTWRITEBYTECODE=1 without ``kept_bytecode``: if its workers take no more CPU than with
it, this module can go.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLES = ("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE")


@contextmanager
def kept_bytecode() -> Iterator[None]:
    """Let processes that start meanwhile keep compiled modules in the user's cache, if they would else be lost."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    if _is_lost("torch"):
        with suppress(OSError, RuntimeError):  # no home, or one that cannot be written: then it is compiled anew
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2f-batch" / "bytecode"
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
                os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _is_lost(package: str) -> bool:
    """Tell whether a package has no compiled modules and will get none."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or sys.pycache_prefix is not None:
        return False
    if os.path.exists(importlib.util.cache_from_source(spec.origin)):
        return False
    return sys.dont_write_bytecode or not os.access(os.path.dirname(spec.origin), os.W_OK)
