"""What a subject is put through by one actor: every cell, every walk, everything twice, and copies gone stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import attrs

from runstate.lifecycle import BIRTH, Law, RunEvent, RunStatus
from runstate.testing.cells import walks
from runstate.testing.records import fields_of, unlike_a_birth, what_changed
from runstate.testing.trial.courses import Course, ask_once, drive, lines_of, way_to
from runstate.testing.trial.judgement import Challenge, Charge, Verdict
from runstate.testing.trial.judging import expected_of, fault_of, is_lawful
from runstate.testing.trial.subject import Loading, Subject

__all__ = ["Found", "axes", "try_cells", "try_stale", "try_twice", "try_walks"]

Tick = Callable[[], None]
_LONGEST = 6


@attrs.define
class Found:
    """What a challenge came to."""

    challenge: Challenge
    tried: int = 0
    charges: list[Charge] = attrs.field(factory=list[Charge])
    cells: dict[tuple[RunStatus, RunEvent], Verdict] = attrs.field(factory=dict[tuple[RunStatus, RunEvent], Verdict])


def axes(law: Law) -> tuple[tuple[RunStatus, ...], tuple[RunEvent, ...]]:
    """Return the statuses and the events that a law mentions."""
    met = {BIRTH, *chain.from_iterable((row.source, row.target) for row in law.transitions)}
    return tuple(status for status in RunStatus if status in met), law.events


def try_cells(subject: Subject, law: Law, tick: Tick) -> Found:
    """Ask every event in every status, each on a run of its own."""
    statuses, events = axes(law)
    found = Found("cell")
    wanted = [(status, event) for status in statuses for event in events]
    ways = {status: way_to(law, status) for status in statuses}
    plans = [(*(ways[status] or ()), event) for status, event in wanted]
    courses = drive(subject, plans, tick, lambda step: is_lawful(law, step))
    for key, course in zip(wanted, courses, strict=True):
        found.cells[key] = _verdict(law, key, course, found)
        found.tried += found.cells[key] in ("holds", "wrong")
    found.charges[:0] = _births(law, courses)
    return found


def _births(law: Law, courses: list[Course]) -> Iterator[Charge]:
    """Yield what is wrong with new runs, once: they are all made alike."""
    for course in courses[:1]:
        wrong = course.ended if not course.born else "; ".join(unlike_a_birth(course.born, law))
        if wrong:
            yield Charge("birth", BIRTH, None, f"to be born {BIRTH}", wrong, ("run = subject.create()",))


def _verdict(law: Law, key: tuple[RunStatus, RunEvent], course: Course, found: Found) -> Verdict:
    step = course.last
    if step is None or step.source is not key[0]:
        return "not reached"
    if step.answer == "not offered":
        return "not offered"
    fault = fault_of(law, step)
    if fault is None:
        return "holds"
    found.charges.append(_charge("cell", law, course, fault))
    return "wrong"


def _charge(challenge: Challenge, law: Law, course: Course, fault: str) -> Charge:
    step = course.steps[-1]
    expected = expected_of(law, step.source, step.event)
    return Charge(challenge, step.source, step.event, expected, fault, tuple(lines_of(course.steps)))


def try_walks(subject: Subject, law: Law, tick: Tick) -> Found:
    """Follow every legal walk, and look at each step: what is right at first may be wrong the second time round."""
    found = Found("walk")
    plans = [walk.events for walk in walks(_LONGEST, law) if len(walk.events) > 1]
    for course in drive(subject, plans, tick, lambda step: is_lawful(law, step)):
        found.tried += 1
        # Shorter walks and the cells have told of all steps but the last.
        fault = None if course.last is None else fault_of(law, course.last)
        if fault is not None:
            found.charges.append(_charge("walk", law, course, fault))
    return found


def try_twice(subject: Subject, law: Law, tick: Tick) -> Found:
    """Ask every legal event twice: the second time it is refused, or recognised and answered with nothing changed."""
    found = Found("repeat")
    ways = [(*way, row.event) for row in law.transitions if (way := way_to(law, row.source)) is not None]
    plans = [(*way, way[-1]) for way in ways if law.find(law.target_of(way[-1]), way[-1]) is None]
    for course in drive(subject, plans, tick, lambda step: is_lawful(law, step)):
        step = course.last
        if step is None or step.answer == "not offered":
            continue
        found.tried += 1
        changed = what_changed(step.before, step.after)
        if changed or step.answer == "broke":
            fault = f"it broke: {step.said}" if step.answer == "broke" else "; ".join(changed)
            found.charges.append(_charge("repeat", law, course, fault))
    return found


def try_stale(subject: Subject, law: Law, tick: Tick) -> Found:
    """Let one actor read a run, another move it on, and the first ask for what was legal when it looked."""
    found = Found("stale")
    if not isinstance(subject, Loading):
        return found
    cases = list(_stale_cases(law))
    courses = drive(subject, [case[0] for case in cases], tick, lambda step: is_lawful(law, step))
    copies: list[Any] = [None if course.ended else subject.load(course.run) for course in courses]
    tick()
    for (_, onward, event), course, copy in zip(cases, courses, copies, strict=True):
        if course.ended or not _goes_on(subject, law, course, onward):
            continue
        found.tried += 1
        before = fields_of(subject.read(course.run))
        answer, said = ask_once(subject, copy, event)
        changed = what_changed(before, fields_of(subject.read(course.run)))
        # The very request that was granted may be recognised: its answer may have been lost.
        said_no = answer == "refused" or (answer == "moved" and event is onward)
        if answer == "not offered" or (said_no and not changed):
            continue
        told = said if answer == "broke" else "; ".join(changed) or "accepted, with nothing changed"
        found.charges.append(_stale_charge(course, onward, event, RunStatus(before["status"]), told))
    return found


def _stale_cases(law: Law) -> Iterator[tuple[tuple[RunEvent, ...], RunEvent, RunEvent]]:
    """Yield the way to where a copy is read, what another asks then, and what the copy's holder asks last."""
    statuses, events = axes(law)
    for status in statuses:
        way = way_to(law, status)
        for onward in law.allowed_events(status) if way is not None else ():
            for event in events:
                if law.find(status, event) and not law.find(law.target_of(onward), event):
                    yield way or (), onward, event


def _goes_on(subject: Subject, law: Law, course: Course, onward: RunEvent) -> bool:
    """Let another actor, who has just read the run, move it on; tell whether it came where the law leads."""
    other = subject.load(course.run) if isinstance(subject, Loading) else course.run
    answer, _ = ask_once(subject, other, onward)
    return answer == "moved" and fields_of(subject.read(course.run))["status"] == law.target_of(onward)


def _stale_charge(course: Course, onward: RunEvent, event: RunEvent, status: RunStatus, told: str) -> Charge:
    lines = (
        *lines_of(course.steps),
        "copy = subject.load(run)",
        f'subject.ask(subject.load(run), "{onward}")',
        f'subject.ask(copy, "{event}")',
    )
    return Charge("stale", status, event, "to be refused, and nothing changed", told, lines)
