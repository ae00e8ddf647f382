"""Runs whose handlers met an outage of the store: they are still this worker's, and are begun again a little later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

from runstate.store.backoff import Backoff
from runstate.stored import StoredRun

__all__ = ["Retries"]

_FIRST_S: Final = 0.2
_MOST_S: Final = 10.0


class Retries:
    """The runs that wait to be begun again, each with backoff of its own."""

    def __init__(self, due: Callable[[], None]) -> None:
        """Have `due` called in the loop when a run is no longer among them, and may be begun."""
        self._due = due
        self._waiting: dict[int, StoredRun] = {}
        self.known: dict[int, Backoff] = {}
        """The runs that were tried before, those under way among them."""
        self.error: BaseException | None = None
        """What the last of them met."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seqs(self) -> AbstractSet[int]:
        """The runs that wait."""
        return self._waiting.keys()

    def add(self, run: StoredRun, error: BaseException) -> None:
        """Let a run wait for its next try, longer from one to the next. Asked in the loop."""
        self.error = error
        self._waiting[run.seq] = run
        delay_s = self.known.setdefault(run.seq, Backoff(_FIRST_S, _MOST_S)).next()
        asyncio.get_running_loop().call_later(delay_s, self._begin, run)

    def _begin(self, run: StoredRun) -> None:
        if self._waiting.get(run.seq) is run:
            del self._waiting[run.seq]
            self._due()

    def forget(self, seq: int) -> None:
        """Forget how often a run was tried: its handler came to an end."""
        self.known.pop(seq, None)

    def clear(self) -> list[StoredRun]:
        """Return the runs that wait, and keep none."""
        left = list(self._waiting.values())
        self._waiting.clear()
        self.known.clear()
        return left
