"""Tells which distribution of this package is installed here: ``m2f-batch``, or ``m2f-batch-client``, which submits.

Both have the same code and command, and their dependencies differ. A job that is submitted brings its own code to
machines that may have another version installed, or none.
"""

import re
import shlex
import socket
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from m2f_batch.errors import UsageError
from m2f_batch.version import VERSION

WHOLE, CLIENT = "m2f-batch", "m2f-batch-client"
# modules of the dependencies of WHOLE that are imported, beyond those of CLIENT
MODULES = frozenset(
    {
        *("PIL", "boto3", "matplotlib", "numpy", "pyarrow", "pycocotools", "ray", "rich", "safetensors", "scipy"),
        *("torch", "torchvision", "transformers", "urllib3"),
    }
)


@cache
def version_of(distribution: str) -> str | None:
    """Return the version that is installed here, None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_installation() -> str | None:
    """Return what to say of an installation of another version than this code, None where there is nothing to say.

    Raises UsageError where both distributions are installed, because they own the same files.
    """
    whole, client = version_of(WHOLE), version_of(CLIENT)
    if whole and client:
        raise UsageError(
            f"{WHOLE} {whole} and {CLIENT} {client} are both installed here and own the same files, so that each "
            f"breaks the other: pip uninstall {WHOLE} {CLIENT}, and install one of them again"
        )
    if whole is None or whole == VERSION:
        return None
    return (
        f"this code is {WHOLE} {VERSION}, and the libraries on {socket.gethostname()} are those of {WHOLE} {whole}; "
        "where they do not fit, install the same version on both sides"
    )


def is_missing(requirement: str | None) -> bool:
    """Tell whether a command cannot run here, because ``CLIENT`` alone is installed and does not bring it.

    ``requirement``: of ``CLIENT``, with the extra that brings the command, None where only ``WHOLE`` does.
    """
    if version_of(CLIENT) is None or version_of(WHOLE) is not None:
        return False
    return requirement is None or bool(_missing(requirement))


def _missing(requirement: str) -> list[str]:
    """Return the distributions that the extra in ``requirement`` brings and that are not installed."""
    extra = re.search(r"\[(.+)\]", requirement)
    wanted = rf"([\w.-]+).*\bextra == ['\"]{extra[1]}['\"]" if extra else "$^"
    found = [each[1] for line in requires(CLIENT) or () if (each := re.match(wanted, line))]
    return [name for name in found if version_of(name) is None]


def what_to_install(requirement: str | None, others: Iterable[str]) -> str:
    """Say what to do about a command that is missing, where ``others`` are the commands of ``CLIENT``."""
    if requirement is not None:
        missing = ", ".join(_missing(requirement))
        return (
            f"needs {missing}, which {CLIENT} leaves out for their size; to add: pip install {shlex.quote(requirement)}"
        )
    return (
        f"is no command of {CLIENT}, which has {' and '.join(sorted(others))}; install {WHOLE} in an environment of "
        "its own"
    )


def what_is_missing(missing: ModuleNotFoundError) -> str | None:
    """Say what to do about a module that is not there, None where no distribution of ours would bring it."""
    module = (missing.name or "").partition(".")[0]
    if module not in MODULES:
        return None
    return f"needs {module}, which is not installed on {socket.gethostname()}; install {WHOLE} there"
