"""Names for runs that sort by the time they were made."""

from __future__ import annotations

import os
from binascii import b2a_base64
from typing import Final

from runstate.clock import current as _clock

__all__ = ["new_run_id"]

# base64 with its 64 characters in ASCII order and safe in a URL, so that ids sort as the bytes they spell.
_SORTED_BASE64: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz",
)


# Asking the system lets other threads run, and waiting for one's turn again costs more than all else about an id.
_RANDOM: Final[list[bytes]] = []
_AT_ONCE: Final = 512
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.clear)


def _random() -> bytes:
    """Return 11 random bytes that nobody else gets."""
    try:
        return _RANDOM.pop()
    except IndexError:
        fresh = os.urandom(11 * _AT_ONCE)
        _RANDOM.extend(fresh[place : place + 11] for place in range(11, len(fresh), 11))
        return fresh[:11]


def new_run_id(now: float | None = None) -> str:
    """Return `run_` and 24 url-safe characters: 60 bits of microseconds, then 84 random ones, so that ids sort by time.

    `now` is in Unix seconds; without it the clock is asked. The random bits are the system's, so a forked worker
    repeats none.

    >>> new_run_id(1) < new_run_id(1.5) < new_run_id(1_700_000_000) < new_run_id()
    True
    """
    microseconds = int((_clock.time() if now is None else now) * 1_000_000)
    number = (microseconds << 88 | int.from_bytes(_random(), "big")) >> 4
    return "run_" + b2a_base64(number.to_bytes(18, "big"), newline=False).translate(_SORTED_BASE64).decode()
