"""The steps of a handler: each function is called once, and its result is kept for later attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from inspect import CORO_CREATED, getcoroutinestate, isawaitable
from threading import Lock
from typing import Any, Final, TypeAlias, TypeVar, cast

from runstate.clock import monotonic, sleep
from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.values import NO_USAGE, raise_if_invalid
from runstate.store import Checkpoint
from runstate.worker._errors import StepInterrupted
from runstate.worker._retry import (
    retry_outages,
    retry_outages_async,
    retry_until_saved,
    retry_until_saved_async,
)
from runstate.worker._saving import SavingContext
from runstate.worker._step_usage import CURRENT_STEP, StepExecution

__all__ = ["HandlerSteps"]

T = TypeVar("T")

Place: TypeAlias = tuple[str, str]
"""The name and the key of a step."""

_NAME: Final = validators.indexed_identifier
_MOST_GIVEN: Final = 32  # how many coroutines are kept before those that have begun are removed
_LOOK_S: Final = 0.05  # between two checks of a lease that may have lapsed


def _is_new(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return getcoroutinestate(coroutine) == CORO_CREATED


def _retrieve(saving: asyncio.Future[None]) -> None:
    """Take the error of a save that nothing awaits, which asyncio would log."""
    if not saving.cancelled():
        saving.exception()


class HandlerSteps:
    """The steps of one call of a handler."""

    def __init__(self, ctx: SavingContext) -> None:
        self._ctx = ctx
        # Always read: after an outage the handler of a run may be called again in the same attempt.
        self._before: dict[Place, bool] | None = None
        """The steps of earlier calls, and whether they have a result. None until they are read."""
        self._here: set[Place] = set()
        """The steps that this call has executed, or executes now."""
        self._claiming = Lock()
        """Guards `_here`: a handler may execute steps in several threads."""
        self._given: list[tuple[str, Coroutine[Any, Any, Any]]] = []
        """The coroutines that an async handler was given, with the names of their steps."""
        self._unsaved: dict[Place, asyncio.Future[None]] = {}
        """The saves that a step did not wait for to the end, because it was cancelled."""

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], key: str | None, once: bool) -> Any:
        """Execute a step of a plain handler, or return its kept result."""
        ctx, place = self._ctx, self._claim(name, function, key)
        with self._released_on_error(place):
            if self._before is None:
                self._before = self._read(lambda: ctx.store.step_index(ctx.run))
            if self._is_kept(place):
                return self._read(lambda: ctx.store.step_result(ctx.run, *place))
            execution = self._begun(place)
            while self._awaits_heartbeat():
                sleep(_LOOK_S)
            if once:
                self._save(execution, None)
                while self._awaits_heartbeat():
                    sleep(_LOOK_S)
            token = CURRENT_STEP.set(execution)
            try:
                value = function(*args)
            finally:
                CURRENT_STEP.reset(token)
            if isawaitable(value):
                self._refuse(value)
            self._save(execution, Checkpoint(value, f"the result of step {name!r}"))
            return value

    def call_later(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], key: str | None, once: bool
    ) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that executes a step of an async handler, or returns its kept result."""
        coroutine = self._execute_later(name, function, args, key, once)
        if len(self._given) >= _MOST_GIVEN:
            self._given = [given for given in self._given if _is_new(given[1])]
        self._given.append((name, coroutine))
        return coroutine

    def not_awaited(self) -> str | None:
        """Return the message for an async handler that did not await a step, or None if it awaited all.

        A task that was cancelled before it began has closed its coroutine, and is no mistake.
        """
        for name, coroutine in self._given:
            if _is_new(coroutine):
                call = f"ctx.step({name!r}, ...)"
                return f"the handler called {call} and did not await it; expected `await {call}`"
        return None

    def close(self) -> None:
        """Close the coroutines that were not awaited, or Python prints a warning that names a private function.

        Tasks that are about to begin do so first: a coroutine that is closed would raise in its task.
        """
        if self.not_awaited() is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # it has ended, and so have its tasks
                self._close_new()
            else:
                loop.call_soon(self._close_new)

    def _close_new(self) -> None:
        for _, coroutine in self._given:
            if _is_new(coroutine):
                coroutine.close()

    async def _execute_later(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], key: str | None, once: bool
    ) -> Any:
        ctx, place = self._ctx, self._claim(name, function, key)
        with self._released_on_error(place):
            if self._before is None:
                before = await self._read_later(lambda: ctx.store.aio.step_index(ctx.run))
                self._before = before if self._before is None else self._before  # another step may have read them
            unsaved = self._unsaved.pop(place, None)
            if unsaved is not None:  # the function has returned already
                await asyncio.shield(unsaved)
                self._before[place] = True
            if self._is_kept(place):
                return await self._read_later(lambda: ctx.store.aio.step_result(ctx.run, *place))
            execution = self._begun(place)
            while self._awaits_heartbeat():
                await asyncio.sleep(_LOOK_S)
            if once:
                await self._save_later(execution, None)
                while self._awaits_heartbeat():
                    await asyncio.sleep(_LOOK_S)
            token = CURRENT_STEP.set(execution)
            try:
                value = function(*args)
                if isawaitable(value):
                    value = await value
            finally:
                CURRENT_STEP.reset(token)
            saving = asyncio.ensure_future(
                self._save_later(execution, Checkpoint(value, f"the result of step {name!r}"))
            )
            try:
                await asyncio.shield(saving)
            except asyncio.CancelledError:  # it is committed nevertheless: the step must not be executed again
                saving.add_done_callback(_retrieve)
                self._unsaved[place] = saving
                raise
            return value

    def _read(self, request: Callable[[], T]) -> T:
        return retry_outages(request, self._ctx.goes_on, self._ctx.store.availability)

    async def _read_later(self, request: Callable[[], Awaitable[T]]) -> T:
        return await retry_outages_async(request, self._ctx.goes_on, self._ctx.store.availability)

    def _claim(self, name: str, function: object, key: str | None) -> Place:
        """Return the place of a step, which no other step of this call may have."""
        raise_if_invalid(_NAME("name", name) + (() if key is None else _NAME("key", key)))
        if not callable(function):
            raise_if_invalid(validators.wrong_type("function", "a function", function))
        place = (name, key or "")
        with self._claiming:
            is_new = place not in self._here
            self._here.add(place)
        if not is_new:
            which = f"step {name!r}" + (f" with the key {key!r}" if key is not None else "")
            told = f"{which} is executed twice in one call of the handler: give each its own name or key"
            raise_if_invalid([FieldError("key", told)])
        return place

    @contextmanager
    def _released_on_error(self, place: Place) -> Generator[None, None, None]:
        """Let the handler execute a step again that has raised: nothing was kept."""
        try:
            yield
        except BaseException:
            self._here.discard(place)
            raise

    def _is_kept(self, place: Place) -> bool:
        """Return whether an earlier call has kept the result. Raises `StepInterrupted` for a mark without a result."""
        kept = cast("dict[Place, bool]", self._before).get(place)
        if kept is False:
            raise StepInterrupted(self._ctx.run.id, *place)
        return kept is True

    def _awaits_heartbeat(self) -> bool:
        """Return whether another worker may have the run by now, and execute the same step.

        The next heartbeat shows whether it has. Raises `LeaseLost` if the run was given up.
        """
        ctx = self._ctx
        if ctx.is_over:
            raise ctx.lease_lost()
        if ctx.is_held(ctx.lease):
            return False
        if not ctx.goes_on():
            raise ctx.lease_lost()
        return True

    def _begun(self, place: Place) -> StepExecution:
        return StepExecution(place, len(self._here.union(cast("dict[Place, bool]", self._before))))

    def _params(self, execution: StepExecution, result: Checkpoint | None) -> dict[str, Any]:
        if self._ctx.is_over:
            raise self._ctx.lease_lost()
        used = execution.usage
        return {
            "number": execution.number,
            "result": result,
            "usage": used,
            "total": None if used == NO_USAGE else self._ctx.usage,
            "resets_losses": self._ctx.steps_reset_losses,
            "took_s": 0.0 if result is None else monotonic() - execution.began,
        }

    def _save(self, execution: StepExecution, result: Checkpoint | None) -> None:
        ctx, params = self._ctx, self._params(execution, result)
        if ctx.emitter is not None:  # the step is not executed again, and would not emit them again
            ctx.emitter.flush(ctx.goes_on)
        retry_until_saved(
            lambda: ctx.store.save_step(ctx.lease, ctx.run, execution.name, execution.key, **params),
            ctx.goes_on,
            ctx.lease_lost,
            ctx.store.availability,
        )
        self._marked(execution, result)

    async def _save_later(self, execution: StepExecution, result: Checkpoint | None) -> None:
        ctx, params = self._ctx, self._params(execution, result)
        if ctx.emitter is not None:
            await ctx.emitter.flush_async()

        def save() -> asyncio.Future[bool]:
            saving: Awaitable[bool] = ctx.store.aio.save_step(
                ctx.lease, ctx.run, execution.name, execution.key, **params
            )
            return asyncio.ensure_future(saving)

        await retry_until_saved_async(save, ctx.goes_on, ctx.lease_lost, ctx.store.availability)
        self._marked(execution, result)

    def _marked(self, execution: StepExecution, result: Checkpoint | None) -> None:
        if result is None:  # if the function raises, the mark stays, and the step may not be executed again
            cast("dict[Place, bool]", self._before)[execution.name, execution.key] = False

    def _refuse(self, value: Any) -> None:
        close = getattr(value, "close", None)
        if close is not None:
            close()  # or Python warns of a coroutine that was never awaited
        told = "returned an awaitable: the steps of a plain handler need plain functions"
        raise_if_invalid([FieldError("function", told)])
