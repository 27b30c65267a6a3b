"""Which distribution of this package is installed here: ``m2f-batch``, or ``m2f-batch-client``, which only submits.

Both have the same code and command; their dependencies differ. A job that is submitted brings its own code to machines
that may have another version installed, or none.
"""

import socket
from importlib.metadata import PackageNotFoundError, version

from m2f_batch.errors import UsageError
from m2f_batch.version import VERSION

WHOLE, CLIENT = "m2f-batch", "m2f-batch-client"
# what is imported of the dependencies of WHOLE, beyond those of CLIENT
MODULES = frozenset(
    {
        *("boto3", "matplotlib", "numpy", "PIL", "pyarrow", "pycocotools", "ray", "safetensors", "scipy", "torch"),
        *("torchvision", "tqdm", "transformers", "urllib3"),
    }
)


def version_of(distribution: str) -> str | None:
    """The version that is installed here; None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_installation() -> str | None:
    """What to say of an installation of another version than this code; None where there is nothing to say.

    Raises UsageError where both distributions are installed, for they own the same files.
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


def what_to_install(command: str, missing: ModuleNotFoundError) -> str | None:
    """What to do about a module that a command could not import; None where no distribution of ours would bring it."""
    module = (missing.name or "").partition(".")[0]
    if module not in MODULES:
        return None
    if version_of(CLIENT) is None:
        return f"needs {module}, which is not installed on {socket.gethostname()}; install {WHOLE} there"
    if command == "status":
        return f"needs {module}, which is not installed here: pip install '{CLIENT}[status]'"
    return (
        f"needs {module}, and this is {CLIENT}, which has submit, submit follow and status; install {WHOLE} in an "
        "environment of its own"
    )
