"""Delays between two tries: they grow from one to the next, and differ by chance from process to process."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["Backoff"]


class Backoff:
    """Exponential backoff with jitter.

    The n-th delay is between a half and the whole of `first_s * 2**n`, and never longer than `most_s`.
    """

    __slots__ = ("_first_s", "_most_s", "_next_s")

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._first_s: Final = first_s
        self._most_s: Final = most_s
        self._next_s = first_s

    def next(self) -> float:
        """Return the seconds to wait before the next try; the one after it waits longer."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._most_s)
        return delay_s * (0.5 + 0.5 * random.random())  # noqa: S311

    def reset(self) -> None:
        """Begin again with the first delay, after a try that went well."""
        self._next_s = self._first_s
