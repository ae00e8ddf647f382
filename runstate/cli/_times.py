"""Durations and times, as users write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import click

__all__ = ["duration", "format_utc"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_MAX_CHARACTERS: Final = 100
_MAX_S: Final = 1000 * 366 * 86_400  # a thousand years


def duration(text: str) -> float:
    """Return the seconds of a duration: `90s`, `15m`, `2h`, `30d`, `1h30m`. Raises `click.BadParameter`.

    >>> duration("90s"), duration("1h30m"), duration("0.5d")
    (90.0, 5400.0, 43200.0)
    """
    parts = _PATTERN.findall(text[:_MAX_CHARACTERS])  # the pattern takes quadratic time for digits without a unit
    if not parts or "".join(number + unit for number, unit in parts) != text:
        is_number = text.isascii() and text.isdecimal() and len(text) < _MAX_CHARACTERS
        meant = f"; did you mean {text}s?" if is_number else ""
        raise click.BadParameter(f"{text!r} is not a duration: write 90s, 15m, 2h or 30d{meant}")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MAX_S:
        raise click.BadParameter(f"{text!r} is longer than a thousand years")
    return seconds


def format_utc(microseconds: int | None, *, digits: int = 0) -> str:
    """Return Unix microseconds as date and time in UTC, with `digits` decimals of the second; None is empty.

    >>> format_utc(1_700_000_000_123_456), format_utc(1_700_000_000_123_456, digits=3)
    ('2023-11-14 22:13:20', '2023-11-14 22:13:20.123')
    """
    if microseconds is None:
        return ""
    seconds, parts = divmod(microseconds, 1_000_000)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # written by other programs, outside of the calendar
        return f"{microseconds} us"
    return f"{text}.{parts:06}"[: len(text) + 1 + digits] if digits else text
