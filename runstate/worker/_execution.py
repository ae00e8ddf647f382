"""The execution of one claimed run: the call of its handler, and the outcome to commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeGuard, cast

from runstate.lifecycle import RunEvent
from runstate.run.validators import with_article
from runstate.store import Settle
from runstate.store.availability import Availability
from runstate.store.errors import LeaseLost, StoreError
from runstate.worker._context import Context
from runstate.worker._errors import RetryLater, RunFailed, TokenLimitReached
from runstate.worker._failure import met_outage
from runstate.worker._handlers import Handler, HandlerError, TaskFactory, discard, is_awaitable
from runstate.worker._outcome import Outcome
from runstate.worker._retry_policy import RetryPolicy

__all__ = ["NOT_CALLED", "RunExecution"]

log: Final = logging.getLogger("runstate.worker")

_CANCELLED: Final = object()
"""Stands for the return value of a handler whose task was cancelled."""
NOT_CALLED: Final = object()
"""Stands for the return value of a handler that was not called, because another worker may have its run by now."""


_FLUSH_S: Final = 1.0
"""How long a handler that was cancelled waits for its events to be written."""


def _always(_: RunExecution) -> bool:
    return True


class RunExecution:
    """A claimed run and the call of its handler."""

    __slots__ = ("_take", "begun_at", "ctx", "error", "future", "seq")

    def __init__(self, ctx: Context, begun_at: float, take: Callable[[RunExecution, object], None]) -> None:
        self.ctx: Final = ctx
        self.seq: Final = ctx.run.seq
        self.begun_at: Final = begun_at
        """When the claim was received, by the monotonic clock. The handler is not called earlier."""
        self._take = take
        """Takes the handler's return value or `HandlerError`, in the loop. A second call has no effect."""
        self.error: BaseException
        """The outage that the handler raised; set if the handler is to be called again."""
        self.future: asyncio.Future[None] | None = None
        """The task of an async handler. None for a plain handler, which a thread calls."""

    def begin(self, handler: Handler, spawn: TaskFactory, is_held: Callable[[RunExecution], bool]) -> None:
        """Await an async handler in a task, if this worker still has the run when the task begins."""
        self.future = spawn(self._await(handler, is_held), self.ctx.run.id)

    def take(self, returned: object) -> None:
        """Take the return value of a handler that was called in a thread."""
        self._take(self, returned)

    def go_on(self, returned: Awaitable[object], spawn: TaskFactory) -> None:
        """Await the awaitable that a plain handler returned: a decorator may hide that a handler is async."""
        self.ctx.await_from_now_on()

        def handler(_: Context) -> Awaitable[object]:
            return returned

        self.future = spawn(self._await(cast("Handler", handler), _always), self.ctx.run.id)
        self.future.add_done_callback(lambda _: discard(returned))  # the task may be cancelled before it begins
        if self.ctx.is_cancelling:  # requested while the plain part of the handler ran
            self.stop()

    async def _await(self, handler: Handler, is_held: Callable[[RunExecution], bool]) -> None:
        """Await an async handler. Only a cancel of the task counts as a cancel of the handler.

        The result is passed on here: a callback of the task would cost one more iteration of the loop per run.
        """
        if not is_held(self):
            self._take(self, NOT_CALLED)
            return
        try:
            returned: object = await cast("Callable[[Context], Awaitable[Outcome | None]]", handler)(self.ctx)
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                await self._flush_soon()
                self._take(self, _CANCELLED)
                raise
            returned = HandlerError(error)  # something that the handler awaited was cancelled
        except GeneratorExit:
            raise  # the loop was closed: there is no worker to take the result
        except BaseException as error:
            returned = HandlerError(error)
        if self.ctx.emitter is not None:
            returned = await self._flushed(returned)
        self._take(self, returned)

    async def _flushed(self, returned: object) -> object:
        """Wait until the events are durable. Return the handler's return value, or the error of its events."""
        try:
            await self._flush()
        except asyncio.CancelledError:  # the handler has ended before, and its return value counts
            await self._flush_soon()
        except Exception as error:
            return HandlerError(error)
        return returned

    async def _flush_soon(self) -> None:
        """Wait until the events are durable, but not for long."""
        with suppress(asyncio.CancelledError, TimeoutError, StoreError):
            async with asyncio.timeout(_FLUSH_S):
                await self._flush()

    async def _flush(self) -> None:
        """Wait until the events are durable: afterwards the outcome is committed, and the run takes no more."""
        if self.ctx.emitter is not None:
            with suppress(LeaseLost):  # so the outcome will be refused, too
                await self.ctx.emitter.flush_async()

    def end(self, future: asyncio.Future[None]) -> None:
        """Take the result of a task that could not pass it on itself, as when it was cancelled before it began."""
        error = None if future.cancelled() else future.exception()
        self._take(self, _CANCELLED if error is None else HandlerError(error))

    def cancel(self) -> None:
        """Pass a cancel request on to the handler: by `cancelling`, and by `CancelledError` if it is async."""
        if not self.ctx.is_cancelling:
            self.stop()

    def stop(self) -> None:
        """Stop the handler. A plain handler only sees `cancelling`."""
        self.ctx.ask_to_cancel()
        if self.future is not None:
            self.future.cancel()
            self.future.add_done_callback(self.end)  # a task that has not begun will not begin

    @staticmethod
    def is_awaitable(returned: object) -> TypeGuard[Awaitable[object]]:
        """Return whether a handler's return value must be awaited."""
        return returned is not None and type(returned) is not Outcome and is_awaitable(returned)

    def conclude(self, returned: object, availability: Availability, policy: RetryPolicy | None) -> Settle | None:
        """Return what to commit for a handler's return value, or None if the handler is to be called again.

        It is called again by this worker if it raised nothing but an outage of the store.
        """
        self.ctx.is_over = True  # before the tokens are read
        if isinstance(returned, HandlerError) and self._met_outage(returned, availability):
            log.debug("run %s: its handler met an outage, and is called again", self.ctx.run_id)
            self.error = returned.error
            return None
        try:
            return self._settle(returned, policy)
        except Exception as error:  # a bug of this library: the run must end nevertheless
            log.exception("run %s: what its handler returned cannot be committed", self.ctx.run_id)
            return self.ctx.settle_error(error)

    def _met_outage(self, raised: HandlerError, availability: Availability) -> bool:
        """Return whether the handler raised nothing but an outage, so that it can be called again.

        False if the run has exceeded a token limit or is to be cancelled: then the run ends for that reason.
        """
        if self.ctx.is_cancelling or self.ctx.is_past_limit:
            return False
        return met_outage(raised.error, availability.was_away_since(self.begun_at))

    def _settle(self, returned: object, policy: RetryPolicy | None) -> Settle:
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
        if isinstance(error, RetryLater) and not ctx.is_past_limit:
            return ctx.settle_retry(error.code, error.reason, error.after_s)
        if policy is not None and (settle := self._retried(error, policy)) is not None:
            return settle
        if not (ctx.is_past_limit or isinstance(error, RunFailed | TokenLimitReached)):  # these ends are intended
            what = with_article(type(error).__name__)
            log.warning("run %s failed: its handler raised %s; the history has the traceback", ctx.run_id, what)
        return ctx.settle_error(error, skipped=1)  # the first frame is that of this library

    def _retried(self, error: BaseException, policy: RetryPolicy) -> Settle | None:
        """Return what repeats the attempt, or None if the policy does not allow it.

        A run that is to be cancelled is cancelled instead. The store decides so too, if the worker has not heard of it.
        """
        ctx = self.ctx
        if isinstance(error, RunFailed | TokenLimitReached) or ctx.is_past_limit:
            return None
        try:
            if not policy.retries(error, ctx.run.failed):
                return None
            if ctx.is_cancelling:
                return ctx.settle_event(RunEvent.CONFIRM_CANCEL)
            after_s = policy.delay_s(ctx.run.failed + 1)
        except Exception:  # a function of the caller's: the run ends with the error of its handler
            log.exception("run %s: its retry policy raised, so it is not retried", ctx.run_id)
            return None
        what = with_article(type(error).__name__)
        log.warning("run %s: attempt %d raised %s; retry in %.3g s", ctx.run_id, ctx.run.attempt, what, after_s)
        return ctx.settle_failure(error, after_s, skipped=1)
