"""The clock of the library, and the only module that reads the time.

All other modules use `current`, so tests can set the time: `with use_clock(ManualClock()) as clock`. There is one clock
for the whole process, because two threads that work on one run must not have two times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Final, Protocol, TypeVar, cast

__all__ = [
    "Clock",
    "ManualClock",
    "SystemClock",
    "format_duration",
    "monotonic",
    "override_us",
    "sleep",
    "time_us",
    "use_clock",
]


class Clock(Protocol):
    """A source of the time."""

    def time(self) -> float:
        """Return Unix seconds."""
        ...


class SystemClock:
    """The machine's own clock."""

    @staticmethod
    def time() -> float:
        """Return Unix seconds."""
        return time.time()


class ManualClock:
    """A clock for tests that stands still until it is moved.

    >>> with use_clock(ManualClock(1_700_000_000)) as clock:
    ...     clock.advance(600)
    ...     clock.time()
    1700000600.0
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now: float = now
        """Unix seconds."""

    def __repr__(self) -> str:
        return f"ManualClock({self.now!r})"

    def time(self) -> float:
        """Return its time in Unix seconds."""
        return float(self.now)

    def advance(self, seconds: float) -> None:
        """Move it by `seconds`; backwards if negative, as real clocks sometimes move.

        Raises `TypeError` for what is no number.
        """
        _check_number(seconds)
        self.now += seconds


def _check_number(seconds: object) -> None:
    if not isinstance(seconds, int | float):
        raise TypeError(f"seconds: expected a number, got {type(seconds).__name__}")


class _Current:
    """Holds the `time` function of the clock: a call through it costs one slot access more than `time.time()`."""

    __slots__ = ("time",)

    def __init__(self, time: Callable[[], float]) -> None:
        self.time: Callable[[], float] = time


current: Final = _Current(time.time)

_system_time = time.time
"""The time function of the system; freezegun replaces it under this name, as in every module."""

_REAL_CLOCKS: Final = (time.time, SystemClock.time)  # in a tuple, where freezegun does not look


class _ClockModule(ModuleType):
    """The class of this module. It passes the function that freezegun puts into `_system_time` on to `current`.

    Reading it from the module at each call would cost every move another call.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_system_time" and current.time is _system_time:
            current.time = cast("Callable[[], float]", value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _ClockModule

# A partial of its own, so that freezegun leaves it alone.
monotonic: Final = partial(time.monotonic)
"""Seconds of a monotonic clock, for durations. No test moves it: leases are real."""

sleep: Final = time.sleep
"""Sleep for so many seconds."""


def time_us() -> int:
    """Return the time in Unix microseconds, as in histories."""
    return int(current.time() * 1_000_000)


def override_us() -> int | None:
    """Time to pass to SQL, in Unix microseconds: the test clock's, or None so that the database uses its own."""
    return None if current.time in _REAL_CLOCKS else time_us()


def format_duration(microseconds: float) -> str:
    """Return a duration in its two largest units; a short one with its milliseconds.

    >>> [format_duration(us) for us in (7_505_000_000, 86_401_000_000, 61_000_000, 1_204_000, 12_000)]
    ['2h 5m', '1d', '1m 1s', '1.204s', '12ms']
    """
    if microseconds < 1_000_000:
        return f"{max(int(microseconds), 0) // 1000}ms"
    if microseconds < 10_000_000:
        return f"{microseconds / 1_000_000:.3f}s"
    left = int(microseconds) // 1_000_000
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        whole, left = divmod(left, seconds)
        if whole or parts:
            parts.append(f"{whole}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))


ClockT = TypeVar("ClockT", bound=Clock)


@contextmanager
def use_clock(clock: ClockT) -> Generator[ClockT, None, None]:
    """Use `clock` in the whole process inside the block, then the previous one again.

    Raises `TypeError` for what is no clock.
    """
    if not callable(getattr(clock, "time", None)):
        raise TypeError(f"clock: expected a clock, such as ManualClock(1_700_000_000), got {type(clock).__name__}")
    before = None if current.time is _system_time else current.time
    current.time = clock.time
    try:
        yield clock
    finally:
        current.time = before or _system_time  # freezegun may have replaced it meanwhile
