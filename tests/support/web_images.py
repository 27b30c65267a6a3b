"""What a fetch of an image of the web gives."""

import pytest

from m2f_batch.errors import ImageError
from m2f_batch.inputs.fetch import fetch
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries

PNG = b"\x89PNG\r\n\x1a\n and so on"


def soon(budget: float = 10) -> Retries:
    return Retries(budget=budget, sleep=lambda seconds: None)


def version_of(url: str) -> str:
    entry = open_store(url).stat(url)
    assert entry is not None
    return entry.version


def reason(url: str, version: str = "") -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        fetch(ImageRef(url, version), soon())
    assert caught.value.stage == "fetch"
    return caught.value.reason, caught.value.message
