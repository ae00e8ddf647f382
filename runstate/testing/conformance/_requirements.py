"""What a subject is put through by one actor: every cell, every walk, everything twice, and copies gone stale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import chain
from typing import Any, Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import unlike_a_birth, what_changed
from runstate.testing.conformance._expectations import REFUSED, briefly, expected_of, fault_of, way_taken
from runstate.testing.conformance._report import Challenge, Charge, Verdict
from runstate.testing.conformance._scenarios import Course, Tick, ask_once, drive, lines_of, look_at, told, way_to
from runstate.testing.conformance._subject import Loading, Subject
from runstate.testing.matrix import CellKey, walks

__all__ = ["Found", "axes", "try_cells", "try_stale", "try_twice", "try_walks"]

_LONGEST: Final = 6


@attrs.define
class Found:
    """What a challenge came to."""

    challenge: Challenge
    tried: int = 0
    charges: list[Charge] = attrs.field(factory=list[Charge])
    cells: dict[CellKey, Verdict] = attrs.field(factory=dict[CellKey, Verdict])


def axes(law: Lifecycle) -> tuple[tuple[RunStatus, ...], tuple[RunEvent, ...]]:
    """Return the statuses and the events that a law mentions."""
    met = {INITIAL_STATUS, *chain.from_iterable((row.source, row.target) for row in law.transitions)}
    return tuple(status for status in RunStatus if status in met), law.events


def try_cells(subject: Subject, law: Lifecycle, tick: Tick, recognises: bool) -> Found:
    """Ask every event in every status, each on a run of its own; see `hold_trial` for `recognises`."""
    statuses, events = axes(law)
    found = Found("cell")
    wanted = [(status, event) for status in statuses for event in events]
    ways = {status: way_to(law, status) or () for status in statuses}
    plans = [(*ways[status], event) for status, event in wanted]
    courses = dict(zip(wanted, _driven(subject, law, plans, tick, found), strict=True))
    for course in list(courses.values())[:1]:  # they are all made alike
        wrong = "; ".join(unlike_a_birth(course.born, law)) if course.born else ""
        if wrong:
            found.charges.append(_birth(course, wrong))
    others = _other_ways(law, courses)
    courses |= zip(others, _driven(subject, law, others.values(), tick, found), strict=True)
    for key, course in courses.items():
        found.cells[key] = _verdict(law, key, course, tick, found, recognises)
        found.tried += found.cells[key] in ("holds", "wrong")
    return found


def _driven(
    subject: Subject, law: Lifecycle, plans: Iterable[Sequence[RunEvent]], tick: Tick, found: Found
) -> list[Course]:
    """Follow plans as far as the law goes along; a run that could not be made is charged once."""
    courses = drive(subject, plans, tick, partial(way_taken, law))
    found.charges += [_birth(course, course.ended) for course in courses if not course.born][:1]
    return courses


def _birth(course: Course, wrong: str) -> Charge:
    lines = ("run = subject.create()", *(["subject.read(run)"] if course.run is not None else []))
    return Charge("birth", INITIAL_STATUS, None, f"to be born {INITIAL_STATUS}", wrong, lines)


def _other_ways(law: Lifecycle, courses: dict[CellKey, Course]) -> dict[CellKey, tuple[RunEvent, ...]]:
    """Return other ways to where the usual one leads by an event that is not offered."""
    absent = {step.event for course in courses.values() for step in course.steps if step.answer == "not offered"}
    return {
        (status, event): (*way, event)
        for status, event in courses
        if absent & {*(way_to(law, status) or ())} and (way := way_to(law, status, absent)) is not None
    }


def _verdict(law: Lifecycle, key: CellKey, course: Course, tick: Tick, found: Found, recognises: bool) -> Verdict:
    step = course.last
    if step is None or step.source is not key[0]:
        return "not reached"
    if step.answer == "not offered":
        return "not offered"
    fault = None if recognises and _is_recognised(course) else fault_of(law, step, later=tick.is_seen)
    if fault is None:
        return "holds"
    found.charges.append(_charge("cell", law, course, fault, tick))
    return "wrong"


def _is_recognised(course: Course) -> bool:
    """Tell whether the last step asked what the one before had got, and was granted with nothing changed."""
    first, last = course.steps[-2:] if len(course.steps) > 1 else (None, course.steps[-1])
    same = first is not None and first.event is last.event
    return same and last.answer == "moved" and not what_changed(last.before, last.after)


def _charge(challenge: Challenge, law: Lifecycle, course: Course, fault: str, tick: Tick) -> Charge:
    step = course.steps[-1]
    lines = tuple(lines_of(course.steps, wait=tick.line if "_at " in fault else ""))
    expected = expected_of(law, step.source, step.event)
    return Charge(challenge, step.source, step.event, expected, fault, lines)


def try_walks(subject: Subject, law: Lifecycle, tick: Tick) -> Found:
    """Follow every legal walk, and look at each step: what is right at first may be wrong the second time round."""
    found = Found("walk")
    plans = [walk.events for walk in walks(_LONGEST, law) if len(walk.events) > 1]
    for course in _driven(subject, law, plans, tick, found):
        step = course.last
        if step is None or step.answer == "not offered":
            continue
        found.tried += 1
        # Shorter walks and the cells have told of all steps but the last.
        fault = fault_of(law, step, later=tick.is_seen)
        if fault is not None:
            found.charges.append(_charge("walk", law, course, fault, tick))
    return found


def try_twice(subject: Subject, law: Lifecycle, tick: Tick) -> Found:
    """Ask every legal event twice: the second time it is refused, or recognised and answered with nothing changed."""
    found = Found("repeat")
    ways = [(*way, row.event) for row in law.transitions if (way := way_to(law, row.source)) is not None]
    plans = [(*way, way[-1]) for way in ways if law.find(law.target_of(way[-1]), way[-1]) is None]
    for course in _driven(subject, law, plans, tick, found):
        step = course.last
        if step is None or step.answer == "not offered":
            continue
        found.tried += 1
        changed = what_changed(step.before, step.after)
        if changed or step.answer == "broke":
            fault = f"it broke: {step.said}" if step.answer == "broke" else "; ".join(changed)
            found.charges.append(_charge("repeat", law, course, fault, tick))
    return found


def try_stale(subject: Subject, law: Lifecycle, tick: Tick, wrong: AbstractSet[CellKey]) -> Found:
    """Let one actor read a run, another move it on, and the first ask for what was legal when it looked.

    What is known to be `wrong` with a copy just read is not tried with an old one.
    """
    found = Found("stale")
    if not isinstance(subject, Loading):
        return found
    cases = list(_stale_cases(law, wrong))
    courses = _driven(subject, law, [way for way, _, _ in cases], tick, found)
    read = [(case, course, _load(subject, course)) for case, course in zip(cases, courses, strict=True)]
    tick.pass_time()
    for (_, onward, event), course, (copy, broke) in read:
        fault = broke or (None if course.ended else _fault_of_stale(subject, law, course.run, copy, onward, event))
        if fault is not None:
            found.tried += 1
        if fault:
            found.charges.append(_stale_charge(law, course, onward, event, fault))
    return found


def _stale_cases(
    law: Lifecycle, wrong: AbstractSet[CellKey]
) -> Iterator[tuple[tuple[RunEvent, ...], RunEvent, RunEvent]]:
    """Yield the way to where a copy is read, what another asks then, and what the copy's holder asks last."""
    statuses, events = axes(law)
    for status in statuses:
        way = way_to(law, status)
        for onward in law.allowed_events(status) if way is not None else ():
            for event in events:
                late = law.target_of(onward), event
                if law.find(status, event) and not law.find(*late) and not {late, (status, onward)} & wrong:
                    yield way or (), onward, event


def _load(subject: Loading, course: Course) -> tuple[Any, str]:
    """Return a copy as another actor reads it, and what broke."""
    try:
        return (None if course.ended else subject.load(course.run)), ""
    except Exception as error:
        return None, f"it broke: {told(error)}"


def _fault_of_stale(
    subject: Loading, law: Lifecycle, run: Any, copy: Any, onward: RunEvent, event: RunEvent
) -> str | None:
    """Return what is wrong with how the holder of an old copy was answered; "" if nothing, None if nothing was."""
    try:
        moved = ask_once(subject, subject.load(run), onward)[0] == "moved"
        before = look_at(subject, run)
        if not moved or before["status"] != law.target_of(onward):
            return None
        answer, said = ask_once(subject, copy, event)
        changed = what_changed(before, look_at(subject, run))
    except Exception as error:
        return f"it broke: {told(error)}"
    if answer == "not offered":
        return None
    if answer == "broke":
        return f"it broke: {said}"
    # The very request that was granted may be recognised: its answer may have been lost.
    if not changed and (answer == "refused" or event is onward):
        return ""
    was = "accepted" if answer == "moved" else "refused; and yet"
    return f"{was}: {briefly(changed)}" if changed else "accepted, with nothing changed"


def _stale_charge(law: Lifecycle, course: Course, onward: RunEvent, event: RunEvent, fault: str) -> Charge:
    lines = (
        *lines_of(course.steps),
        "copy = subject.load(run)",
        f'subject.ask(subject.load(run), "{onward}")',
        f'subject.ask(copy, "{event}")',
        "subject.read(run)",
    )
    return Charge("stale", law.target_of(onward), event, REFUSED, fault, lines, beside=onward)
