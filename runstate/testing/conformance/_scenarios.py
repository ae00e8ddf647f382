"""Scenarios: a run is created, gets one event after another, and is read before and after each.

All scenarios advance together, one step of each and then a step of the clock. So checks that have to wait for the next
second wait a handful of times and not a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import read_fields
from runstate.testing.conformance._system import EventNotOffered, SystemUnderTest
from runstate.testing.matrix import walks

__all__ = [
    "Answer",
    "RunFields",
    "Scenario",
    "Step",
    "TimeStep",
    "describe_error",
    "path_to",
    "read_run",
    "reproduction_lines",
    "run_scenarios",
    "send",
]

Answer: TypeAlias = Literal["moved", "refused", "not offered", "broke"]
RunFields: TypeAlias = Mapping[str, Any]

_MAX_TEXT: Final = 160
_UNREADABLE: Final = "it cannot be read back"


@attrs.frozen
class TimeStep:
    """A way to let time pass between two moves."""

    run: Callable[[], None]
    changes_stamps: bool
    """Whether so much time passes that a new stamp in whole seconds differs from the old one."""
    line: str
    """The line for it in a reproduction."""


@attrs.frozen
class Step:
    """One event sent to a run, the result, and the run before and after."""

    event: RunEvent
    answer: Answer
    before: RunFields
    after: RunFields
    text: str = ""
    """The message of the refusal or of the error."""

    @property
    def is_unreadable(self) -> bool:
        """Whether the run could not be read after the event."""
        return self.text.startswith(_UNREADABLE)

    @property
    def source(self) -> RunStatus:
        """The status of the run before."""
        return RunStatus(self.before["status"])

    @property
    def target(self) -> RunStatus:
        """The status of the run after."""
        return RunStatus(self.after["status"])


@attrs.define
class Scenario:
    """The events to send to one run, and the steps taken so far."""

    events: tuple[RunEvent, ...]
    run: Any = None
    created: RunFields = attrs.field(factory=dict[str, Any])
    steps: list[Step] = attrs.field(factory=list[Step])
    stopped: str = ""
    """Why it was stopped before its end."""

    @property
    def last(self) -> Step | None:
        """Its last step, if all its events were sent."""
        return self.steps[-1] if self.steps and len(self.steps) == len(self.events) else None


def path_to(lifecycle: Lifecycle, status: RunStatus, without: Container[RunEvent] = ()) -> tuple[RunEvent, ...] | None:
    """Return the shortest path from creation to a status, one that begins with `start` if there is one."""
    paths = [walk.events for walk in walks(5, lifecycle) if walk.end is status]
    paths = [path for path in paths if not any(event in without for event in path)]
    started = [path for path in paths if RunEvent.START in path[:1]]
    return () if status is INITIAL_STATUS else min(started or paths, key=len, default=None)


def describe_error(error: BaseException) -> str:
    """Return an error in one line. The message of an error of the system may itself raise."""
    try:
        text = " ".join(str(error).split())[:_MAX_TEXT]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def read_run(system: SystemUnderTest, run: Any) -> RunFields:
    """Return a run as it is stored. Raises the errors of the system, and `ValueError` for an unknown status."""
    found = read_fields(_require_sync(system.read(run)))
    RunStatus(found["status"])
    return found


def _require_sync(answer: object) -> object:
    """Return the result of a call. Raises `TypeError` for a coroutine, which has done nothing yet."""
    if isinstance(answer, Coroutine):
        answer.close()  # otherwise Python warns that it was never awaited
        raise TypeError("it returned a coroutine: let the adapter await it, by asyncio.run")
    return answer


def send(system: SystemUnderTest, run: Any, event: RunEvent) -> tuple[Answer, str]:
    """Send one event; return the result and its message."""
    try:
        _require_sync(system.send(run, event))
    except EventNotOffered as error:
        return "not offered", describe_error(error)
    except system.refused as error:
        return "refused", describe_error(error).partition(": ")[2]
    except Exception as error:  # of the system: it is reported, and the checks go on
        return "broke", describe_error(error)
    return "moved", ""


def run_scenarios(
    system: SystemUnderTest,
    plans: Iterable[Sequence[RunEvent]],
    time_step: TimeStep,
    path_taken: Callable[[Step], tuple[RunEvent, ...]],
) -> list[Scenario]:
    """Follow each plan on a run of its own, all of them a step at a time, as long as the moves are legal."""
    scenarios = [Scenario(tuple(plan)) for plan in plans]
    for scenario in scenarios:
        _create_run(system, scenario)
    for place in range(max((len(scenario.events) for scenario in scenarios), default=0)):
        time_step.run()
        for scenario in scenarios:
            if not scenario.stopped and place < len(scenario.events):
                step = _take_step(system, scenario, scenario.events[place])
                _update_plan(scenario, path_taken(step))
    return scenarios


def _create_run(system: SystemUnderTest, scenario: Scenario) -> None:
    try:
        scenario.run = system.create()
        scenario.created = read_run(system, scenario.run)
    except Exception as error:
        scenario.stopped = f"no run was made: {describe_error(error)}"


def _take_step(system: SystemUnderTest, scenario: Scenario, event: RunEvent) -> Step:
    before = scenario.steps[-1].after if scenario.steps else scenario.created
    answer, text = send(system, scenario.run, event)
    try:
        after = read_run(system, scenario.run)
    except Exception as error:
        answer, text, after = "broke", f"{_UNREADABLE}: {describe_error(error)}", before
    step = Step(event, answer, before, after, text)
    scenario.steps.append(step)
    return step


def _update_plan(scenario: Scenario, path: tuple[RunEvent, ...]) -> None:
    """Drop planned events that the step already included; stop a scenario that cannot go on."""
    done, ahead = len(scenario.steps), scenario.events[len(scenario.steps) :]
    more = path[1:]
    if not path:
        scenario.stopped = "the last step was not a legal move"
    elif more and ahead[: len(more)] == more:
        scenario.events = (*scenario.events[:done], *ahead[len(more) :])
    elif more and ahead[:1] != path[:1]:  # a repeated event makes sense in any status
        scenario.stopped = f"it went on to {more[0]} without being told"


def reproduction_lines(steps: Sequence[Step], wait: str = "") -> Iterator[str]:
    """Yield a reproduction, a call a line with its outcome; `wait` is a line to put before the last call."""
    yield "run = system.create()"
    for number, step in enumerate(steps, start=1):
        if wait and number == len(steps):
            yield wait
        call = f'system.send(run, "{step.event}")'
        outcome = f"moved to {step.target}" if step.answer == "moved" else step.answer
        yield call if step.is_unreadable else f"{call:<42}  # {outcome}"
    if steps and (steps[-1].before != steps[-1].after or steps[-1].is_unreadable):
        yield "system.read(run)"
