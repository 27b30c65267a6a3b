"""Times are said one way wherever they are said."""

from datetime import UTC, datetime, timedelta

import pytest

from m2f_batch.messages.spoken import duration, now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "an unknown time"),
        (-3, "0 s"),
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (61.0, "1 min 1 s"),
        (284, "4 min 44 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (3600 * 3 - 20, "3 h 0 min"),
        (3600 * 30.5, "30 h 30 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_now_is_in_utc_and_to_the_second() -> None:
    text = now()
    assert text.endswith("+00:00") and len(text) == len("2026-11-30T06:00:00+00:00")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(seconds=10)
