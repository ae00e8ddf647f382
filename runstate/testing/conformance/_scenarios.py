"""Courses: a run is created, asked one event after another, and looked at before and after each.

All courses of a trial go on together, a step of each and then a tick of the clock, so that a trial that has to wait
for another second waits a handful of times and not a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import fields_of
from runstate.testing.conformance._subject import EventNotOffered, Subject
from runstate.testing.matrix import walks

__all__ = [
    "Answer",
    "Course",
    "RunFields",
    "Step",
    "Tick",
    "ask_once",
    "drive",
    "lines_of",
    "look_at",
    "told",
    "way_to",
]

Answer: TypeAlias = Literal["moved", "refused", "not offered", "broke"]
RunFields: TypeAlias = Mapping[str, Any]

_MOST_SAID: Final = 160
_UNREADABLE: Final = "it cannot be read back"


@attrs.frozen
class Tick:
    """What lets time pass between two moves."""

    pass_time: Callable[[], None]
    is_seen: bool
    """Whether so much passes that a stamp of whole seconds written anew differs."""
    line: str
    """How a reproduction says it."""


@attrs.frozen
class Step:
    """One event asked of a run, what was answered, and how the run was kept before and after."""

    event: RunEvent
    answer: Answer
    before: RunFields
    after: RunFields
    said: str = ""
    """The refusal's words, or what broke."""

    @property
    def is_unreadable(self) -> bool:
        """Whether the event was answered and the run could not be read then."""
        return self.said.startswith(_UNREADABLE)

    @property
    def source(self) -> RunStatus:
        """Where the run stood."""
        return RunStatus(self.before["status"])

    @property
    def target(self) -> RunStatus:
        """Where it stands then."""
        return RunStatus(self.after["status"])


@attrs.define
class Course:
    """The events to be asked of one run, and what came of those asked so far."""

    events: tuple[RunEvent, ...]
    run: Any = None
    born: RunFields = attrs.field(factory=dict[str, Any])
    steps: list[Step] = attrs.field(factory=list[Step])
    ended: str = ""
    """Why it was not followed to its end."""

    @property
    def last(self) -> Step | None:
        """Its last step, if all of it was followed."""
        return self.steps[-1] if self.steps and len(self.steps) == len(self.events) else None


def way_to(law: Lifecycle, status: RunStatus, without: Container[RunEvent] = ()) -> tuple[RunEvent, ...] | None:
    """Return the shortest way of a law from birth to a status, by a worker's hand where such a one leads there."""
    ways = [walk.events for walk in walks(5, law) if walk.end is status]
    ways = [way for way in ways if not any(event in without for event in way)]
    begun = [way for way in ways if RunEvent.START in way[:1]]
    return () if status is INITIAL_STATUS else min(begun or ways, key=len, default=None)


def told(error: BaseException) -> str:
    """Return an error in one line; somebody else's may not even have a sentence."""
    try:
        said = " ".join(str(error).split())[:_MOST_SAID]
    except Exception:
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def look_at(subject: Subject, run: Any) -> RunFields:
    """Return a run as it is kept. Raises what the subject raises, and `ValueError` for a status that is none."""
    found = fields_of(_now(subject.read(run)))
    RunStatus(found["status"])
    return found


def _now(answer: object) -> object:
    """Return an answer that is one. Raises `TypeError` for a coroutine: nothing has been asked yet then."""
    if isinstance(answer, Coroutine):
        answer.close()  # or Python warns that nobody awaited it
        raise TypeError("it is to be awaited: let the adapter do so, by asyncio.run")
    return answer


def ask_once(subject: Subject, run: Any, event: RunEvent) -> tuple[Answer, str]:
    """Ask one event; return what was answered, and in which words."""
    try:
        _now(subject.ask(run, event))
    except EventNotOffered as error:
        return "not offered", told(error)
    except subject.refused as error:
        return "refused", told(error).partition(": ")[2]
    except Exception as error:  # whatever it is, it is somebody else's code, and the trial goes on
        return "broke", told(error)
    return "moved", ""


def drive(
    subject: Subject,
    plans: Iterable[Sequence[RunEvent]],
    tick: Tick,
    way_taken: Callable[[Step], tuple[RunEvent, ...]],
) -> list[Course]:
    """Follow each plan on a run of its own, all of them a step at a time, as long as the way taken is a legal one."""
    courses = [Course(tuple(plan)) for plan in plans]
    for course in courses:
        _begin(subject, course)
    for place in range(max((len(course.events) for course in courses), default=0)):
        tick.pass_time()
        for course in courses:
            if not course.ended and place < len(course.events):
                step = _follow(subject, course, course.events[place])
                _go_on(course, way_taken(step))
    return courses


def _begin(subject: Subject, course: Course) -> None:
    try:
        course.run = subject.create()
        course.born = look_at(subject, course.run)
    except Exception as error:
        course.ended = f"no run was made: {told(error)}"


def _follow(subject: Subject, course: Course, event: RunEvent) -> Step:
    before = course.steps[-1].after if course.steps else course.born
    answer, said = ask_once(subject, course.run, event)
    try:
        after = look_at(subject, course.run)
    except Exception as error:
        answer, said, after = "broke", f"{_UNREADABLE}: {told(error)}", before
    step = Step(event, answer, before, after, said)
    course.steps.append(step)
    return step


def _go_on(course: Course, way: tuple[RunEvent, ...]) -> None:
    """Leave out what a step did besides what it was asked; end a course that cannot be followed any more."""
    asked, ahead = len(course.steps), course.events[len(course.steps) :]
    more = way[1:]
    if not way:
        course.ended = "the last step was not a legal move"
    elif more and ahead[: len(more)] == more:
        course.events = (*course.events[:asked], *ahead[len(more) :])
    elif more and ahead[:1] != way[:1]:  # to ask the same once more makes sense wherever it came
        course.ended = f"it went on by {more[0]} of itself"


def lines_of(steps: Sequence[Step], wait: str = "") -> Iterator[str]:
    """Yield a reproduction, a call a line, and what came of each; `wait` is a line to stand before the last."""
    yield "run = subject.create()"
    for number, step in enumerate(steps, start=1):
        if wait and number == len(steps):
            yield wait
        call = f'subject.ask(run, "{step.event}")'
        came = f"moved to {step.target}" if step.answer == "moved" else step.answer
        yield call if step.is_unreadable else f"{call:<42}  # {came}"
    if steps and (steps[-1].before != steps[-1].after or steps[-1].is_unreadable):
        yield "subject.read(run)"
