"""Courses: a run is created, asked one event after another, and looked at before and after each.

All courses of a trial go on together, a step of each and then a tick of the clock, so that a trial that has to wait
for another second waits a handful of times and not a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from runstate.lifecycle import BIRTH, Law, RunEvent, RunStatus
from runstate.testing.cells import walks
from runstate.testing.records import fields_of
from runstate.testing.trial.subject import NotOffered, Subject

__all__ = ["Answer", "Course", "Step", "ask_once", "drive", "way_to"]

Answer: TypeAlias = Literal["moved", "refused", "not offered", "broke"]
Record: TypeAlias = Mapping[str, Any]


@attrs.frozen
class Step:
    """One event asked of a run, what was answered, and how the run was kept before and after."""

    event: RunEvent
    answer: Answer
    before: Record
    after: Record
    said: str = ""
    """The refusal's words, or what broke."""

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
    born: Record = attrs.field(factory=dict[str, Any])
    steps: list[Step] = attrs.field(factory=list[Step])
    ended: str = ""
    """Why it was not followed to its end."""

    @property
    def asked(self) -> tuple[RunEvent, ...]:
        """The events asked so far."""
        return tuple(step.event for step in self.steps)

    @property
    def last(self) -> Step | None:
        """Its last step, if all of it was followed."""
        return self.steps[-1] if self.steps and len(self.steps) == len(self.events) else None


def way_to(law: Law, status: RunStatus) -> tuple[RunEvent, ...] | None:
    """Return the shortest way of a law from birth to a status by a worker's hand, where one leads there."""
    ways = [walk.events for walk in walks(5, law) if walk.end is status]
    begun = [way for way in ways if RunEvent.START in way[:1]]
    return () if status is BIRTH else min(begun or ways, key=len, default=None)


def ask_once(subject: Subject, run: Any, event: RunEvent) -> tuple[Answer, str]:
    """Ask one event; return what was answered, and in which words."""
    try:
        subject.ask(run, event)
    except NotOffered as error:
        return "not offered", str(error)
    except subject.refused as error:
        return "refused", str(error)
    except Exception as error:  # whatever it is, it is somebody else's code, and the trial goes on
        return "broke", f"{type(error).__name__}: {error}"
    return "moved", ""


def drive(
    subject: Subject,
    plans: Iterable[Sequence[RunEvent]],
    tick: Callable[[], None],
    goes_on: Callable[[Step], bool],
) -> list[Course]:
    """Follow each plan on a run of its own, all of them a step at a time; stop one where `goes_on` says no."""
    courses = [Course(tuple(plan)) for plan in plans]
    for course in courses:
        _begin(subject, course)
    for place in range(max((len(course.events) for course in courses), default=0)):
        tick()
        for course in courses:
            if not course.ended and place < len(course.events):
                _follow(subject, course, course.events[place], goes_on)
    return courses


def _begin(subject: Subject, course: Course) -> None:
    try:
        course.run = subject.create()
        course.born = fields_of(subject.read(course.run))
        RunStatus(course.born["status"])
    except Exception as error:
        course.ended = f"no run was made: {type(error).__name__}: {error}"


def _follow(subject: Subject, course: Course, event: RunEvent, goes_on: Callable[[Step], bool]) -> None:
    before = course.steps[-1].after if course.steps else course.born
    answer, said = ask_once(subject, course.run, event)
    try:
        after: Record = fields_of(subject.read(course.run))
        RunStatus(after["status"])
    except Exception as error:
        answer, said, after = "broke", f"it cannot be read back: {type(error).__name__}: {error}", before
    step = Step(event, answer, before, after, said)
    course.steps.append(step)
    if not goes_on(step):
        course.ended = f"{event} was {answer}"


def lines_of(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a reproduction, a call a line, and what came of each."""
    yield "run = subject.create()"
    for step in steps:
        call = f'subject.ask(run, "{step.event}")'
        came = f"moved to {step.target}" if step.answer == "moved" else step.answer
        yield f"{call:<42}  # {came}{f': {step.said[:80]}' if step.said and step.answer == 'broke' else ''}"
