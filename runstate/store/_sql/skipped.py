"""The runs that this process leaves out of claims and sweeps for a while, because their rows cannot be written."""

from __future__ import annotations

from typing import Final

from runstate.clock import monotonic

__all__ = ["SKIP_S", "SkippedRuns"]

SKIP_S: Final = 60.0
_MOST: Final = 20_000  # runs: each makes the statements that leave them out a little dearer


class SkippedRuns:
    """The seqs of the skipped runs. Each is skipped for a minute; of too many, the oldest are tried again sooner."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        """When each run is tried again, in this order."""

    def add(self, seq: int) -> None:
        """Skip a run from now on."""
        self._until.pop(seq, None)
        while len(self._until) >= _MOST:
            self._until.pop(next(iter(self._until)))
        self._until[seq] = monotonic() + SKIP_S

    @property
    def seqs(self) -> tuple[int, ...]:
        """The runs that are skipped now."""
        if not self._until:
            return ()
        now, until = monotonic(), self._until.copy()  # a copy: other threads may use the store inside transactions
        for seq in [seq for seq, moment in until.items() if moment <= now]:
            self._until.pop(seq, None)
        return tuple(self._until)
