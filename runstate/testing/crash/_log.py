"""The record of one run under `crash_test`: its operations, steps and effects, and the planned death of its worker."""

from __future__ import annotations

import asyncio
import sys
from threading import Event, RLock, get_ident
from typing import Any, Final, Literal, NoReturn, TypeAlias, cast

import attrs

from runstate.run.values import NO_USAGE, Usage
from runstate.store import StoredRun

__all__ = [
    "EffectRecord",
    "HandlerCall",
    "KeptStep",
    "Operation",
    "PlannedDeath",
    "RunLog",
    "StepCall",
    "StepPlace",
    "WorkerDied",
    "has_died",
    "name_step",
]

StepPlace: TypeAlias = tuple[str, str]
"""The name and the key of a step. The key is empty if there is none."""

_MOST_REFUSALS: Final = 100
"""After so many refused operations a dead handler is in a loop that swallows its death."""


class WorkerDied(BaseException):
    """The worker dies here. `crash_test` raises it in the handler; a handler must not catch it."""


@attrs.frozen
class PlannedDeath:
    """Where the worker of a run dies: at an operation, or after an effect. Both are counted from 0 in the run."""

    when: Literal["before", "after", "effect"]
    number: int


@attrs.define
class StepCall:
    """One `ctx.step(...)` of a handler."""

    place: StepPlace
    once: bool
    function: str
    """The function with the arguments that were passed to it."""
    closure: str
    """The plain values that the function itself holds: default values and variables of the handler."""
    is_executed: bool = False
    is_returned: bool = False
    """Whether the handler received a result."""
    is_interrupted: bool = False
    """Whether the handler received `StepInterrupted`."""
    kept_at: int | None = None
    """The number of the operation that has committed the result."""
    marked_at: int | None = None
    usage: Usage = NO_USAGE
    """The tokens that the function has added."""
    refusal: str | None = None
    """The text of `InvalidRun`, if the library has refused the step."""
    changed: str | None = None
    """How the result differs from what later attempts get."""


@attrs.frozen
class EffectRecord:
    """An effect in the outside world that a probe has counted."""

    name: str
    key: str
    is_repeatable: bool
    call: HandlerCall
    step: StepCall | None
    at: int
    """How many operations the run had made before."""


@attrs.define(eq=False)
class Operation:
    """A durable operation of a handler, or of the worker for it."""

    number: int
    kind: str
    name: str
    """How messages name it, such as `the result of step 'plan'`."""
    call: HandlerCall
    is_committed: bool = False


@attrs.frozen
class KeptStep:
    """A step as the store has it after the end of the run, with names of this run replaced."""

    result: str
    is_ended: bool
    usage: Usage


def name_step(place: StepPlace) -> str:
    """Return how messages name a step."""
    name, key = place
    return f"step {name!r} with the key {key!r}" if key else f"step {name!r}"


class HandlerCall:
    """One call of the handler, in one attempt of the run. After its death it refuses everything."""

    def __init__(self, log: RunLog, number: int, leg: int, attempt: int) -> None:
        self.log: Final = log
        self.number: Final = number
        self.leg: Final = leg
        """How many tool rounds the run had behind it."""
        self.attempt: Final = attempt
        self.steps: list[StepCall] = []
        self.is_dead: bool = False
        self.has_swallowed: bool = False
        """Whether the handler went on after its death."""
        self.is_hopeless: Final = Event()
        """Set if the handler swallows its death in a loop."""
        self.thread: int = get_ident()
        """The thread in which the handler is called."""
        self.told: Final[set[object]] = set()
        """The tasks in which the death was raised; for a plain handler, its thread."""
        self._refusals = 0

    def begin(self, kind: str, name: str) -> Operation:
        """Record an operation that is about to be committed. Raises `WorkerDied` if the worker dies before."""
        self._wait_if_hopeless()
        with self.log.lock:
            self.check_alive()
            operation = Operation(len(self.log.operations), kind, name, self)
            self.log.operations.append(operation)
            if self.log.death == PlannedDeath("before", operation.number):
                self.die(f"before {name} was committed")
        return operation

    def commit(self, operation: Operation) -> None:
        """Record that an operation was committed. Raises `WorkerDied` if the worker dies before the handler goes on."""
        with self.log.lock:
            operation.is_committed = True
            if self.log.death == PlannedDeath("after", operation.number) and not self.is_dead:
                then = {"claim": "before the handler was called", "outcome": "before the worker received the reply"}
                told = then.get(operation.kind, "before the handler went on")
                self.die(f"after {operation.name} was committed, {told}")
            self.check_alive()

    def effect(self, name: str, key: str, is_repeatable: bool, step: StepCall | None) -> None:
        """Record an effect. Raises `WorkerDied` if the worker dies right after it."""
        self._wait_if_hopeless()
        with self.log.lock:
            self.check_alive()
            number = len(self.log.effects)
            at = len(self.log.operations)
            self.log.effects.append(EffectRecord(name, key, is_repeatable, self, step, at))
            if self.log.death == PlannedDeath("effect", number):
                which = f"{name!r} with the key {key!r}" if key else repr(name)
                inside = f", inside {name_step(step.place)}" if step is not None else ", outside any step"
                self.die(f"right after the effect {which}{inside}")

    def raised_here(self) -> None:
        """Record that the death was raised in the current task or thread."""
        self.told.add(self._here())

    def die(self, point: str) -> NoReturn:
        """Let the worker die."""
        self.is_dead = True
        self.log.point = self.log.neutral(point)
        self.log.dead_call = self
        self.told.add(self._here())
        raise WorkerDied(f"the worker dies {point}")

    def check_alive(self) -> None:
        """Raise `WorkerDied` if the worker is dead. A handler that calls this after its death has swallowed it.

        Not counted is what it does while it handles the death, as in a `finally`, and what other tasks do meanwhile.
        """
        if not self.is_dead:
            return
        self._refusals += 1
        here = self._here()
        if here in self.told - {None} and not _is_handling_death():
            self.has_swallowed = True
        self.told.add(here)
        if self._refusals > _MOST_REFUSALS:
            self.has_swallowed = True
            self.is_hopeless.set()
        raise WorkerDied("the worker is dead: it can do nothing more")

    def require_alive(self) -> None:
        """Raise `WorkerDied` if the worker is dead."""
        self._wait_if_hopeless()
        self.check_alive()

    def _here(self) -> object:
        """Return the current task, or the thread of the handler. None in other threads: they may belong to a pool."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        return task or (self.thread if get_ident() == self.thread else None)

    def _wait_if_hopeless(self) -> None:
        """Stop this thread for good if the handler would never end: nothing else can stop it."""
        if self.is_hopeless.is_set():
            Event().wait()


def _is_handling_death() -> bool:
    error = sys.exception()
    while error is not None:
        if has_died(error):
            return True
        error = error.__context__
    return False


def has_died(error: BaseException) -> bool:
    """Return whether an exception is the death of the worker, or a group that contains it."""
    if isinstance(error, BaseExceptionGroup):
        members: tuple[BaseException, ...] = cast("Any", error).exceptions
        return any(map(has_died, members))
    return isinstance(error, WorkerDied)


class RunLog:
    """What one run did, over all attempts and tool rounds."""

    def __init__(self, death: PlannedDeath | None) -> None:
        self.death: Final = death
        self.lock: Final = RLock()
        self.calls: list[HandlerCall] = []
        self.operations: list[Operation] = []
        self.effects: list[EffectRecord] = []
        self.point: str | None = None
        """Where the worker died, in words. None if it did not."""
        self.dead_call: HandlerCall | None = None
        self.hung: str | None = None
        """What the handler did when it did not end in time."""
        self.names: dict[str, str] = {}
        """What stands for the ids of this run, so that two runs can be compared."""
        self.run: StoredRun
        """The run after its end."""
        self.kept: dict[StepPlace, KeptStep] = {}
        """The steps after the end."""

    def call(self, leg: int, attempt: int) -> HandlerCall:
        """Record another call of the handler."""
        call = HandlerCall(self, len(self.calls), leg, attempt)
        self.calls.append(call)
        return call

    def neutral(self, text: str) -> str:
        """Return a text with the ids of this run replaced."""
        for name, neutral in self.names.items():
            text = text.replace(name, neutral)
        return text

    def neutral_place(self, place: StepPlace) -> StepPlace:
        """Return the place of a step with the ids of this run replaced."""
        return self.neutral(place[0]), self.neutral(place[1])

    @property
    def error(self) -> Any:
        """The `last_error` or the `incomplete_details` of the run, as text that can be compared."""
        error, details = self.run.last_error, self.run.incomplete_details
        if error is not None:
            return f"{error.code}: {self.neutral(error.message)}"
        return None if details is None else details.reason

    @property
    def status(self) -> str:
        """The status after the end."""
        return str(self.run.status)

    @property
    def outcome(self) -> str:
        """The status after the end, with its error."""
        return f"{self.run.status} ({self.error})" if self.error else str(self.run.status)

    @property
    def usage(self) -> Usage:
        """The tokens of the run."""
        return self.run.usage or NO_USAGE

    def effect_counts(self) -> dict[StepPlace, int]:
        """Return how often each effect happened, by its name and key."""
        counts: dict[StepPlace, int] = {}
        for effect in self.effects:
            place = self.effect_place(effect)
            counts[place] = counts.get(place, 0) + 1
        return counts

    def effect_place(self, effect: EffectRecord) -> StepPlace:
        """Return the name and key of an effect, with the ids of this run replaced."""
        return self.neutral_place((effect.name, effect.key))

    @property
    def interrupted(self) -> tuple[StepPlace, ...]:
        """The steps that were marked and have no result."""
        return tuple(place for place, step in self.kept.items() if not step.is_ended)
