"""Runs whose handlers raised an outage of the store: this worker keeps them, and calls their handlers again later."""

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
    """The retries of one run."""

    __slots__ = ("backoff", "since", "usage")

    def __init__(self) -> None:
        self.backoff: Final = Backoff(_FIRST_S, _MOST_S)
        self.since: Final = monotonic()
        """When its first try ended, by the monotonic clock. This worker had the run before."""
        self.usage: Usage = Usage(0, 0)


class Retries:
    """The runs that wait for their next try, each with its own backoff."""

    def __init__(self, due: Callable[[], None]) -> None:
        """Call `due` in the loop when a run no longer waits, and may be begun."""
        self._due = due
        self._waiting: dict[int, Context] = {}
        self._left: set[int] = set()
        self.known: dict[int, _Tried] = {}
        """The runs that were tried before, by seq. Includes those whose handlers are called now."""
        self.error: BaseException | None = None
        """The exception of the last failed try."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seqs(self) -> AbstractSet[int]:
        """The seqs of the runs that wait, and of those that were left."""
        return self._waiting.keys() | self._left if self._left else self._waiting.keys()

    def leave(self, seq: int) -> None:
        """Keep a run whose outcome the database cannot write. It is not begun again while this worker holds it."""
        self._left.add(seq)

    def add(self, ctx: Context, error: BaseException) -> None:
        """Let a run wait for its next try, with a growing delay. Called in the loop."""
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
        """Return the claim with the tokens of the earlier tries, which the store may not have saved."""
        tried = self.known.get(claim.run.seq)
        if tried is None or tried.usage == Usage(0, 0):
            return claim
        used, kept = tried.usage, claim.usage
        most = Usage(max(kept.prompt_tokens, used.prompt_tokens), max(kept.completion_tokens, used.completion_tokens))
        return attrs.evolve(claim, usage=most)

    def compare(self, looked_at: float, standing: Mapping[int, RunStatus]) -> list[Context]:
        """Forget the runs that have ended or were taken over, by the statuses in the store at `looked_at`.

        Return the waiting runs that are to be cancelled. They no longer wait.
        """
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
        """Forget the tries of a run. Called when its handler has ended."""
        self.known.pop(seq, None)

    def clear(self) -> list[StoredRun]:
        """Remove all runs. Return those that waited."""
        left = [ctx.run for ctx in self._waiting.values()]
        self._waiting.clear()
        self._left.clear()
        self.known.clear()
        return left
