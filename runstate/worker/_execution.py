"""The execution of one claimed run: its handler under way, and the outcome to be committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeGuard, cast

from runstate.lifecycle import RunEvent
from runstate.run.validators import with_article
from runstate.store import Settle
from runstate.store.availability import Availability
from runstate.worker._context import Context, Outcome, RunFailed, TokenLimitReached
from runstate.worker._failure import met_outage
from runstate.worker._handlers import Handler, HandlerError, TaskFactory, discard, is_awaitable

__all__ = ["NOT_CALLED", "RunExecution"]

log: Final = logging.getLogger("runstate.worker")

_CANCELLED: Final = object()
"""What a handler returns whose task was cancelled."""
NOT_CALLED: Final = object()
"""What is handed over for a handler that was not called, for its run may be another worker's by now."""


def _always(_: RunExecution) -> bool:
    return True


class RunExecution:
    """A claimed run whose handler is called."""

    __slots__ = ("_take", "begun_at", "ctx", "error", "future", "seq")

    def __init__(self, ctx: Context, begun_at: float, take: Callable[[RunExecution, object], None]) -> None:
        self.ctx: Final = ctx
        self.seq: Final = ctx.run.seq
        self.begun_at: Final = begun_at
        """When its claim was known; it is not called earlier."""
        self._take = take
        """Takes what the handler returned or `Raised`, in the loop; what is taken twice is taken once."""
        self.error: BaseException
        """The outage that the handler met; set where it is to be called again."""
        self.future: asyncio.Future[None] | None = None
        """What awaits an async handler; none for a plain one, which a thread calls."""

    def begin(self, handler: Handler, spawn: TaskFactory, is_held: Callable[[RunExecution], bool]) -> None:
        """Await an async handler in a task, if the run is still held when that begins."""
        self.future = spawn(self._await(handler, is_held), self.ctx.run.id)

    def take(self, returned: object) -> None:
        """Take what a handler returned that was called in a thread."""
        self._take(self, returned)

    def go_on(self, returned: Awaitable[object], spawn: TaskFactory) -> None:
        """Await what a handler returned, as if it were the handler: a decorator may hide that it is async."""
        self.ctx.await_from_now_on()

        def handler(_: Context) -> Awaitable[object]:
            return returned

        self.future = spawn(self._await(cast("Handler", handler), _always), self.ctx.run.id)
        self.future.add_done_callback(lambda _: discard(returned))  # it may have been cancelled before it began
        if self.ctx.is_cancelling:  # let known while the plain part of it ran
            self.stop()

    async def _await(self, handler: Handler, is_held: Callable[[RunExecution], bool]) -> None:
        """Await an async handler. Only who cancels the task cancels it.

        What came of it is handed over here: a callback of the task would cost another round of the loop a run.
        """
        if not is_held(self):
            self._take(self, NOT_CALLED)
            return
        try:
            returned = await cast("Callable[[Context], Awaitable[Outcome | None]]", handler)(self.ctx)
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                self._take(self, _CANCELLED)
                raise
            self._take(self, HandlerError(error))  # of something that the handler awaited
        except GeneratorExit:
            raise  # the loop was closed around it: nobody is there to take anything
        except BaseException as error:
            self._take(self, HandlerError(error))
        else:
            self._take(self, returned)

    def end(self, future: asyncio.Future[None]) -> None:
        """Hand over what came of the task where it could not do that itself, as where it was cancelled unbegun."""
        error = None if future.cancelled() else future.exception()
        self._take(self, _CANCELLED if error is None else HandlerError(error))

    def cancel(self) -> None:
        """Let the handler know that its run shall be cancelled: an async one by CancelledError."""
        if not self.ctx.is_cancelling:
            self.stop()

    def stop(self) -> None:
        """Stop the handler, as far as it can be."""
        self.ctx.ask_to_cancel()
        if self.future is not None:
            self.future.cancel()
            self.future.add_done_callback(self.end)  # a task that has not begun never will

    @staticmethod
    def is_awaitable(returned: object) -> TypeGuard[Awaitable[object]]:
        """Return whether what the handler returned is still to be awaited."""
        return returned is not None and type(returned) is not Outcome and is_awaitable(returned)

    def conclude(self, returned: object, availability: Availability) -> Settle | None:
        """Return what to commit for what the handler returned; None if it met an outage, and is to be called again."""
        if isinstance(returned, HandlerError) and self._met_outage(returned, availability):
            log.debug("run %s: its handler met an outage, and is called again", self.ctx.run_id)
            self.error = returned.error
            return None
        try:
            return self._settle(returned)
        except Exception as error:  # a bug of this library: the run must end all the same
            log.exception("run %s: what its handler returned cannot be committed", self.ctx.run_id)
            return self.ctx.settle_error(error)

    def _met_outage(self, raised: HandlerError, availability: Availability) -> bool:
        """Return whether what the handler raised says nothing of the run, which can be begun again.

        Not where the run is at a limit or is to be cancelled: then it ends by that.
        """
        if self.ctx.is_cancelling or self.ctx.is_past_limit:
            return False
        return met_outage(raised.error, availability.was_away_since(self.begun_at))

    def _settle(self, returned: object) -> Settle:
        ctx = self.ctx
        if returned is _CANCELLED:
            if ctx.is_cancelling:
                return ctx.settle_event(RunEvent.CONFIRM_CANCEL)
            returned = HandlerError(asyncio.CancelledError("by others"))
        if not isinstance(returned, HandlerError):
            return ctx.settle(returned)
        error = returned.error
        if ctx.is_cancelling and met_outage(error, was_away=True):
            return ctx.settle_event(RunEvent.CONFIRM_CANCEL)
        if not isinstance(error, RunFailed | TokenLimitReached):  # those say what the handler meant
            what = with_article(type(error).__name__)
            log.warning("run %s failed: its handler raised %s; the history has the traceback", ctx.run_id, what)
        return ctx.settle_error(error, skipped=1)  # the first frame is ours
