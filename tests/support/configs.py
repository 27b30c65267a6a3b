"""Configs of ``segment`` as tests give them: flags, ``--set`` and files, and the lines that refuse them."""

from pathlib import Path
from typing import Any

import pytest

from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError

NEEDED = {"input.uri": "photos", "model.uri": "m", "output.uri": "out"}


def load(*overrides: str, file: str | None = None, **flags: Any) -> SegmentConfig:
    """A config with what is needed, from ``--set`` texts, and flags with dots written as two underscores."""
    given = NEEDED | {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(SegmentConfig, file=file, overrides=overrides, flags=given)


def mistakes(*overrides: str, file: str | None = None, **flags: Any) -> list[str]:
    """The lines of the error."""
    with pytest.raises(UsageError) as caught:
        load(*overrides, file=file, **flags)
    return str(caught.value).splitlines()


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
