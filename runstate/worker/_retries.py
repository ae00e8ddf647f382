"""Runs whose handlers met an outage of the store: they are still this worker's, and are begun again a little later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.run.values import Usage
from runstate.store import Claim, StoredRun
from runstate.store.backoff import Backoff
from runstate.worker._context import Context

__all__ = ["Retries"]

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_FIRST_S: Final = 0.2
_MOST_S: Final = 10.0


class _Tried:
    """A run that was tried before."""

    __slots__ = ("backoff", "since", "usage")

    def __init__(self) -> None:
        self.backoff: Final = Backoff(_FIRST_S, _MOST_S)
        self.since: Final = monotonic()
        """When its first try was over; it is this worker's for longer."""
        self.usage: Usage = Usage(0, 0)


class Retries:
    """The runs that wait to be begun again, each with backoff of its own."""

    def __init__(self, due: Callable[[], None]) -> None:
        """Have `due` called in the loop when a run is no longer among them, and may be begun."""
        self._due = due
        self._waiting: dict[int, Context] = {}
        self.known: dict[int, _Tried] = {}
        """The runs that were tried before, those under way among them."""
        self.error: BaseException | None = None
        """What the last of them met."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seqs(self) -> AbstractSet[int]:
        """The runs that wait."""
        return self._waiting.keys()

    def add(self, ctx: Context, error: BaseException) -> None:
        """Let a run wait for its next try, longer from one to the next. Asked in the loop."""
        self.error = error
        seq = ctx.run.seq
        self._waiting[seq] = ctx
        tried = self.known.setdefault(seq, _Tried())
        tried.usage = ctx.usage
        ctx.note_usage()
        asyncio.get_running_loop().call_later(tried.backoff.next(), self._begin, ctx)

    def _begin(self, ctx: Context) -> None:
        if self._waiting.get(ctx.run.seq) is ctx:
            del self._waiting[ctx.run.seq]
            self._due()

    def with_usage(self, claim: Claim) -> Claim:
        """Return a claim with the tokens of the earlier tries, which the store may not have taken."""
        tried = self.known.get(claim.run.seq)
        if tried is None or tried.usage == Usage(0, 0):
            return claim
        used, kept = tried.usage, claim.usage
        most = Usage(max(kept.prompt_tokens, used.prompt_tokens), max(kept.completion_tokens, used.completion_tokens))
        return attrs.evolve(claim, usage=most)

    def compare(self, looked_at: float, standing: Mapping[int, RunStatus]) -> list[Context]:
        """Forget the runs that were ended or taken over; return those that wait and shall be cancelled, no more."""
        cancelled: list[Context] = []
        for seq, tried in list(self.known.items()):
            status = standing.get(seq)
            is_gone = status is None and tried.since < looked_at
            ctx = self._waiting.pop(seq, None) if is_gone or status is _CANCELLING else None
            if status is _CANCELLING and ctx is not None:
                cancelled.append(ctx)
            if is_gone or ctx is not None:
                self.forget(seq)
        return cancelled

    def forget(self, seq: int) -> None:
        """Forget how often a run was tried: its handler came to an end."""
        self.known.pop(seq, None)

    def clear(self) -> list[StoredRun]:
        """Return the runs that wait, and keep none."""
        left = [ctx.run for ctx in self._waiting.values()]
        self._waiting.clear()
        self.known.clear()
        return left
