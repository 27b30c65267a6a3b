"""Reads when a run should be done: a time, a time of day, or how long it may take."""

import re
from datetime import UTC, date, datetime, timedelta

ALLOWED = "a time (2026-11-30T06:00+01:00), a time of day (06:00, the next one) or a duration (8h, 1d 12h, 90m)"
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m(?:in)?)?")
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(Z|[+-]\d{2}:\d{2})?")


def deadline_at(text: str, begun: datetime) -> datetime:
    """Return the moment that ``text`` means to a run that began at ``begun``.

    Times without a zone are UTC. Raises ValueError for a text that means none.

    >>> begun = datetime(2026, 11, 29, 22, 0, tzinfo=UTC)
    >>> [deadline_at(text, begun).isoformat() for text in ("8h", "06:00", "2026-11-30T06:00+01:00")]
    ['2026-11-30T06:00:00+00:00', '2026-11-30T06:00:00+00:00', '2026-11-30T06:00:00+01:00']
    """
    text = text.strip()
    if (found := _DURATION.fullmatch(text)) and any(found.groups()):
        days, hours, minutes = (float(part or 0) for part in found.groups())
        if not (length := timedelta(days=days, hours=hours, minutes=minutes)):
            raise ValueError("no time at all")
        return begun + length
    if found := _TIME_OF_DAY.fullmatch(text):
        zone = datetime.fromisoformat(f"2026-01-01T00:00{found[3] or 'Z'}").tzinfo
        at = begun.astimezone(zone).replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return at if at > begun else at + timedelta(days=1)
    at = datetime.fromisoformat(text)
    if len(text) < len("2026-11-30T06:00"):
        raise ValueError("a day alone")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def as_text(value: object) -> object:
    """Return a deadline as it was typed, because YAML takes a time for a datetime, and some times of day for numbers.

    Raises ValueError for what ``deadline_at`` does not take.
    """
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, date | int | float):  # 16:00 is 960 in YAML
        raise ValueError("quotes are missing")
    if isinstance(value, str):
        try:
            deadline_at(value, datetime.now(UTC))
        except OverflowError:
            raise ValueError("too long") from None
    return value
