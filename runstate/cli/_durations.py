"""Spans of time and moments, as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import click

__all__ = ["duration", "moment"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORM: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_MOST_CHARACTERS: Final = 100
_MOST_S: Final = 1000 * 366 * 86_400  # a thousand years


def duration(text: str) -> float:
    """Return the seconds of a span of time: `90s`, `15m`, `2h`, `30d`, `1h30m`. Raises `BadParameter`.

    >>> duration("90s"), duration("1h30m"), duration("0.5d")
    (90.0, 5400.0, 43200.0)
    """
    parts = _FORM.findall(text[:_MOST_CHARACTERS])  # of many digits without a unit it looks at each many times
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise click.BadParameter(f"{text!r} is no span of time: write 90s, 15m, 2h or 30d")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MOST_S:
        raise click.BadParameter(f"{text!r} is longer than a thousand years")
    return seconds


def moment(microseconds: int | None, *, digits: int = 0) -> str:
    """Return a moment as date and time in UTC, with so many digits of a second's parts; empty for none.

    >>> moment(1_700_000_000_123_456), moment(1_700_000_000_123_456, digits=3)
    ('2023-11-14 22:13:20', '2023-11-14 22:13:20.123')
    """
    if microseconds is None:
        return ""
    seconds, parts = divmod(microseconds, 1_000_000)
    try:
        told = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # written by hand, past all calendars
        return f"{microseconds} us"
    return f"{told}.{parts:06}"[: len(told) + 1 + digits] if digits else told
