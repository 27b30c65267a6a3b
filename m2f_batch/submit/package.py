"""Packs the working directory of a submitted job: the package that checked it, and its config, as one archive."""

import hashlib
import io
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import m2f_batch
from m2f_batch.submit.jobs import CONFIG_FILE, Job

EPOCH = (1980, 1, 1, 0, 0, 0)  # of zip files; the same files make the same archive, which is sent once


def entrypoint(job: Job) -> str:
    """Return the shell command of the driver, which is seen by all who see the cluster's jobs.

    >>> entrypoint(Job("segment", ("--config", "job.yaml")))
    'python -m m2f_batch.cli segment --config job.yaml'
    """
    return shlex.join(["python", "-m", "m2f_batch.cli", job.name, *job.arguments])


def working_dir(job: Job) -> tuple[str, bytes]:
    """Return the archive and its name, by which Ray knows whether it has it."""
    files = dict(_own_code())
    if job.config is not None:
        files[CONFIG_FILE] = job.config.encode()
    data = archive(files)
    return f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip", data


def archive(files: Mapping[str, bytes]) -> bytes:
    """Zip files by their names. The same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            packed.writestr(entry, data)
    return buffer.getvalue()


def _own_code() -> Iterator[tuple[str, bytes]]:
    """Yield the package's files by their names in the working directory, without the demo's model."""
    root = Path(str(m2f_batch.__file__)).parent
    for file in root.rglob("*"):
        name = file.relative_to(root)
        if file.is_file() and "__pycache__" not in name.parts and name.parts[:2] != ("demo", "model"):
            yield str(Path(root.name) / name), file.read_bytes()
