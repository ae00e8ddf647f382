"""Growing delays between two tries, with jitter."""

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
        """Return the delay before the next try, in seconds, and double the one after it."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._most_s)
        return delay_s * (0.5 + 0.5 * random.random())  # noqa: S311

    def reset(self) -> None:
        """Begin again with the first delay. Called after a success."""
        self._next_s = self._first_s
