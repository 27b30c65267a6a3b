"""Says times as people read them: how long something takes, and what time it is."""

from datetime import UTC, datetime


def duration(seconds: float | None) -> str:
    """Say a length of time in its two largest units, rounded to the smaller one.

    >>> duration(4.2), duration(399), duration(7322), duration(90_000), duration(None)
    ('4 s', '6 min 39 s', '2 h 2 min', '25 h 0 min', 'an unknown time')
    """
    if seconds is None:
        return "an unknown time"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def now() -> str:
    """Return this moment in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
