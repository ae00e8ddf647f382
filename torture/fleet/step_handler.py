"""Handlers of forty steps each, with events and a tool round, and the worker that calls them.

A position is the place of a step in the handler. The handlers log each call of a function, and each result they get.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from runstate.store import NewRun
from runstate.worker import Context, Outcome, StepInterrupted, Worker
from torture.fleet.handler_log import Line, SideLog
from torture.fleet.settings import Settings, opened_store

__all__ = [
    *("GROUPS", "POSITIONS", "REPAIR", "Note", "StepHandling", "is_once", "new_run_of_steps", "note_of"),
    *("place_of", "tokens_of", "work_in_steps"),
]

POSITIONS: Final = range(40)
"""The steps of a handler."""
REPAIR: Final = 100
"""What is added to the position of an interrupted step, for the step that the handler executes instead."""
CONCURRENCY: Final = 4
MAX_ATTEMPTS: Final = 20
"""More workers than die of a run between two steps. More may die in all, since a new step resets the count."""
_AT_ONCE: Final = range(20, 24)  # async handlers execute these together
_TOOLS_AFTER: Final = 29
GROUPS: Final[Sequence[Sequence[int]]] = [
    *([position] for position in POSITIONS if position < _AT_ONCE.start),
    _AT_ONCE,
    *([position] for position in POSITIONS if position >= _AT_ONCE.stop),
]


def is_once(position: int) -> bool:
    """Return whether the step is executed with `once=True`."""
    return position % 8 == 5 and position not in _AT_ONCE and position < REPAIR


def place_of(position: int) -> tuple[str, str]:
    """Return the name and the key of a step."""
    if position >= REPAIR:
        return "repair", str(position - REPAIR)
    return ("charge", str(position)) if is_once(position) else ("ask", str(position))


def tokens_of(position: int) -> tuple[int, int]:
    """Return the tokens that a step uses."""
    return position + 1, 2 * position + 1


def new_run_of_steps(run_id: str, *, tools: bool) -> NewRun:
    """Return what a run is created with."""
    plan = "tools" if tools else "straight"
    return {"id": run_id, "thread_id": f"thread_{run_id}", "assistant_id": plan, "model": "none"}


class Note(NamedTuple):
    """A line of the log about a step, or about the end of a call of the handler."""

    what: str
    """`called` at the beginning of its function, `told` when the handler got its result, `interrupted`; `over`."""
    position: int
    call: str
    """The call of the handler."""
    emitted: int
    """How many events this call had emitted."""
    result: str
    """The call that has executed the step whose result the handler got."""


def note_of(line: Line) -> Note | None:
    """Return what a line says about a step; None if it is about something else."""
    what, *rest = line.what.split("/")
    if not rest:
        return None
    position, call, emitted, result = rest
    return Note(what, int(position), call, int(emitted), result)


class _Call:
    """One call of a handler."""

    def __init__(self, side: SideLog, ctx: Context) -> None:
        self.ctx = ctx
        self._side = side
        self._id = os.urandom(6).hex()
        self._emitted = 0

    def note(self, what: str, position: int = 0, result: str = "-") -> None:
        self._side.write(f"{what}/{position}/{self._id}/{self._emitted}/{result}", self.ctx)

    def emit(self) -> None:
        self.ctx.emit({"call": self._id, "place": self._emitted})
        self._emitted += 1

    def emit_before(self, position: int) -> None:
        """Emit some events before a step."""
        for _ in range((2, 0, 1)[position % 3]):
            self.emit()

    def spend(self, position: int) -> Mapping[str, Any]:
        """Do the work of a step, except for the time it takes; return its result."""
        self.note("called", position)
        self.ctx.add_usage(*tokens_of(position))
        return {"call": self._id, "position": position}

    def get(self, position: int, result: Mapping[str, Any]) -> None:
        """Log the result of a step."""
        self.note("told", position, result["call"] if result["position"] == position else "another")


class StepHandling:
    """The handlers: one for coroutines, one for threads, over the same steps."""

    def __init__(self, side: SideLog, slow_s: float, chance: Random) -> None:
        self._side = side
        self._slow_s = slow_s
        self._chance = chance

    async def later(self, ctx: Context) -> Outcome | None:
        """Execute the steps as a coroutine, some of them at once."""
        call = self._begun(ctx)
        for group in GROUPS:
            await asyncio.gather(*(self._step_later(call, position) for position in group))
            if self._needs_tools(ctx, group):
                return self._require_tools(call)
        return self._complete(call)

    def now(self, ctx: Context) -> Outcome | None:
        """Execute the steps in a thread."""
        call = self._begun(ctx)
        for group in GROUPS:
            for position in group:
                self._step_now(call, position)
            if self._needs_tools(ctx, group):
                return self._require_tools(call)
        return self._complete(call)

    def _begun(self, ctx: Context) -> _Call:
        self._side.write("begun", ctx)
        return _Call(self._side, ctx)

    async def _step_later(self, call: _Call, position: int) -> None:
        async def function() -> Mapping[str, Any]:
            result = call.spend(position)
            await asyncio.sleep(self._seconds())
            return result

        call.emit_before(position)
        name, key = place_of(position)
        try:
            result = await call.ctx.step(name, function, key=key, once=is_once(position))
        except StepInterrupted:
            call.note("interrupted", position)
            await self._step_later(call, position + REPAIR)
        else:
            call.get(position, result)

    def _step_now(self, call: _Call, position: int) -> None:
        def function() -> Mapping[str, Any]:
            result = call.spend(position)
            time.sleep(self._seconds())
            return result

        call.emit_before(position)
        name, key = place_of(position)
        try:
            result = call.ctx.step(name, function, key=key, once=is_once(position))
        except StepInterrupted:
            call.note("interrupted", position)
            self._step_now(call, position + REPAIR)
        else:
            call.get(position, result)

    def _seconds(self) -> float:
        return self._slow_s * self._chance.random() ** 2 * 3

    @staticmethod
    def _needs_tools(ctx: Context, group: Sequence[int]) -> bool:
        return _TOOLS_AFTER in group and ctx.run.assistant_id == "tools" and not ctx.tool_outputs

    def _require_tools(self, call: _Call) -> Outcome:
        call.emit()
        call.note("over")
        self._side.write("ended-require_action", call.ctx)
        return call.ctx.require_action([call.ctx.tool_call("weather", city="Paris")])

    def _complete(self, call: _Call) -> Outcome:
        call.emit()
        call.note("over")
        self._side.write("ended-complete", call.ctx)
        return call.ctx.complete()


def work_in_steps(name: str, settings: Settings) -> None:
    """Work until this process is killed."""
    chance = Random(f"{settings.seed} {name}")
    with opened_store(name, settings) as store:
        handling = StepHandling(SideLog(settings.side, name), settings.slow_s, chance)
        asynchronous = chance.random() < 0.5 if settings.asynchronous is None else settings.asynchronous
        try:
            Worker(
                store,
                handling.later if asynchronous else handling.now,
                concurrency=settings.concurrency or CONCURRENCY,
                name=name,
                lease_s=settings.lease_s,
                max_attempts=MAX_ATTEMPTS,
            ).run()
        except BaseException:
            logging.exception("the worker fell")
            raise
