"""One run in the hands of a worker: its handler under way, and what becomes of it."""

from __future__ import annotations

import asyncio
import traceback
from concurrent.futures import Executor
from typing import Any, Final

from runstate.clock import monotonic
from runstate.lifecycle import RunEvent
from runstate.store.commands import Settle
from runstate.worker.context import Context
from runstate.worker.handling import Handler

__all__ = ["Work"]

_MOST_TRACEBACK: Final = 20_000  # characters, the last of them


class Work:
    """A claimed run whose handler is called."""

    __slots__ = ("begun_at", "ctx", "ended_by", "future", "seq")

    def __init__(self, ctx: Context) -> None:
        self.ctx: Final = ctx
        self.seq: Final = ctx.run.seq
        self.begun_at: Final = monotonic()
        self.ended_by: RunEvent | None = None
        """What the worker has decided already, without waiting for the handler: its result is dropped then."""
        self.future: asyncio.Future[Any]

    def begin(self, handler: Handler, asynchronous: bool, pool: Executor) -> None:
        """Call the handler: a coroutine as a task, a plain function in a thread."""
        loop = asyncio.get_running_loop()
        if asynchronous:
            self.future = loop.create_task(handler(self.ctx))  # type: ignore[arg-type]
        else:
            self.future = loop.run_in_executor(pool, handler, self.ctx)

    def cancel(self, asynchronous: bool) -> None:
        """Let the handler know that its run shall be cancelled: an async one by CancelledError."""
        if not self.ctx.is_cancelling:
            self.ctx.ask_to_cancel()
            if asynchronous:
                self.future.cancel()

    def abandon(self, asynchronous: bool) -> None:
        """Stop the handler, as far as it can be; nothing it returns counts any more."""
        self.ctx.ask_to_cancel()
        if asynchronous:
            self.future.cancel()

    def settle(self) -> Settle | None:
        """Return what to commit, now that the handler is done; None if it was let go without a result."""
        future, ctx = self.future, self.ctx
        if future.cancelled():
            return ctx.settle_event(RunEvent.CONFIRM_CANCEL) if ctx.is_cancelling else None
        error = future.exception()
        if error is None:
            return ctx.settle(future.result())
        told = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]
        return ctx.settle_error(error, told)
