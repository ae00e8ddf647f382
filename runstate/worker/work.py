"""One run in the hands of a worker: its handler under way, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from functools import partial
from typing import Final

from runstate.clock import monotonic
from runstate.errors import RunstateError
from runstate.lifecycle import RunEvent
from runstate.store.commands import Settle
from runstate.worker.context import Context
from runstate.worker.crew import Crew
from runstate.worker.handling import Handler, Raised, call, call_later

__all__ = ["Work"]

log: Final = logging.getLogger("runstate.worker")

_MOST_TRACEBACK: Final = 20_000  # characters, the last of them


class Work:
    """A claimed run whose handler is called."""

    __slots__ = ("begun_at", "ctx", "future", "seq")

    def __init__(self, ctx: Context) -> None:
        self.ctx: Final = ctx
        self.seq: Final = ctx.run.seq
        self.begun_at: Final = monotonic()
        self.future: asyncio.Future[object]

    def begin(self, handler: Handler, asynchronous: bool, crew: Crew) -> None:
        """Call the handler: a coroutine as a task, a plain function in a thread."""
        if asynchronous:
            self.future = asyncio.get_running_loop().create_task(call_later(handler, self.ctx))
        else:
            self.future = crew.call(partial(call, handler, self.ctx))

    def cancel(self, asynchronous: bool) -> None:
        """Let the handler know that its run shall be cancelled: an async one by CancelledError."""
        if not self.ctx.is_cancelling:
            self.abandon(asynchronous)

    def abandon(self, asynchronous: bool) -> None:
        """Stop the handler, as far as it can be."""
        self.ctx.ask_to_cancel()
        if asynchronous:
            self.future.cancel()

    def settle(self) -> Settle:
        """Return what to commit, now that the handler is done."""
        future, ctx = self.future, self.ctx
        if future.cancelled() and ctx.is_cancelling:
            return ctx.settle_event(RunEvent.CONFIRM_CANCEL)
        returned = Raised(asyncio.CancelledError("by others")) if future.cancelled() else future.result()
        if not isinstance(returned, Raised):
            return ctx.settle(returned)
        error = returned.error
        ours = error.__traceback__
        told = traceback.format_exception(type(error), error, None if ours is None else ours.tb_next)
        if not isinstance(error, RunstateError):  # those say what the handler meant
            log.warning(
                "run %s: its handler raised %s; the history has the traceback", ctx.run_id, type(error).__name__
            )
        return ctx.settle_error(error, "".join(told)[-_MOST_TRACEBACK:])
