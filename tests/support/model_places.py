"""Places that name no model, and how they are refused."""

import pytest

from m2f_batch.errors import UsageError
from m2f_batch.models.source import find_model


def refusal(uri: str, revision: str | None = None) -> str:
    """The one line with which model.uri is refused."""
    with pytest.raises(UsageError) as caught:
        find_model(uri, revision)
    assert "\n" not in str(caught.value)
    assert caught.value.field in ("model.uri", "model.revision"), "commands rename it"
    return str(caught.value)
