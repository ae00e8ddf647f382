"""Ids of runs, which sort by their time."""

from __future__ import annotations

import os
from typing import Final

from runstate.clock import current as _clock

__all__ = ["new_run_id"]

# In the order of ASCII, so that ids sort by their numbers.
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Two digits at a time need half the divisions. Three would need a table of 238,328 strings.
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)
_TWO_DIGITS: Final = 62**2
_FOUR_DIGITS: Final = 62**4
_TEN_DIGITS: Final = 62**10

# A random byte becomes a digit by its remainder. 256 is not a multiple of 62, so the bytes from 248 on are left out:
# otherwise eight digits would be more likely than the others.
_TO_DIGITS: Final = (_DIGITS * 5).encode()[:256]
_LEFT_OUT: Final = bytes(range(248, 256))

# A system call lets other threads run, and to get the interpreter back costs more than the rest of an id.
_RANDOM: Final[list[str]] = []
_random: Final = _RANDOM.pop
_BYTES_AT_ONCE: Final = 7_424  # for 513 ids on average
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.clear)


def _fill_random() -> str:
    """Fetch random digits for later ids, and return the 14 of one more that no other caller gets."""
    fresh = os.urandom(_BYTES_AT_ONCE).translate(_TO_DIGITS, _LEFT_OUT).decode()
    _RANDOM.extend([fresh[place : place + 14] for place in range(14, len(fresh) - 13, 14)])
    return fresh[:14]


# The first six digits change every 14.8 seconds, so they are kept, with their number. (A tuple, because other threads
# may replace it between two reads.)
_prefix: tuple[int, str] = (_TEN_DIGITS, "")
"""At first a number that no time has."""


def _new_prefix(microseconds: int, now: float | None) -> str:
    """Return `run_` and the first six digits of a time, and keep them."""
    global _prefix
    if not 0 <= microseconds < _TEN_DIGITS:
        raise ValueError(f"an id holds a time from 0 to {_TEN_DIGITS // 1_000_000} seconds, not {now}")
    number = microseconds // _FOUR_DIGITS
    high, fifth = divmod(number, _TWO_DIGITS)
    first, third = divmod(high, _TWO_DIGITS)
    prefix = f"run_{_PAIRS[first]}{_PAIRS[third]}{_PAIRS[fifth]}"
    _prefix = number, prefix
    return prefix


def new_run_id(now: float | None = None) -> str:
    """Return a new id: `run_` and 24 digits of base 62 (`0-9A-Za-z`), so that ids sort by time as strings.

    Ten digits are the microseconds since 1970: 59.5 bits, enough until the year 28566. Fourteen are random: 83.4 bits
    from the system, none of which a forked process repeats.

    `now` is in Unix seconds; the default is the time of the clock. Raises `ValueError` for a time that ten digits
    cannot hold.

    >>> new_run_id(1) < new_run_id(1.5) < new_run_id(1_700_000_000) < new_run_id()
    True
    """
    microseconds = int((_clock.time() if now is None else now) * 1_000_000)
    number, low = divmod(microseconds, _FOUR_DIGITS)
    known, prefix = _prefix
    if number != known:
        prefix = _new_prefix(microseconds, now)
    seventh, ninth = divmod(low, _TWO_DIGITS)
    try:
        random = _random()
    except IndexError:
        random = _fill_random()
    return f"{prefix}{_PAIRS[seventh]}{_PAIRS[ninth]}{random}"
