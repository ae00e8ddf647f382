"""Names for runs that sort by the time they were made."""

from __future__ import annotations

from binascii import b2a_base64
from os import urandom
from typing import Final

from runstate.clock import reader as _clock

__all__ = ["new_run_id"]

# base64 with its 64 characters in ASCII order and safe in a URL, so that ids sort as the bytes they spell.
_SORTED_BASE64: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz",
)


def new_run_id(now: float | None = None) -> str:
    """Return `run_` and 24 url-safe characters: 60 bits of microseconds, then 84 random ones, so that ids sort by time.

    `now` is in Unix seconds; without it the clock is asked. The random bits are the system's, so a forked worker
    repeats none.

    >>> new_run_id(1) < new_run_id(1.5) < new_run_id(1_700_000_000) < new_run_id()
    True
    """
    microseconds = int((_clock.time() if now is None else now) * 1_000_000)
    number = (microseconds << 88 | int.from_bytes(urandom(11), "big")) >> 4
    return "run_" + b2a_base64(number.to_bytes(18, "big"), newline=False).translate(_SORTED_BASE64).decode()
