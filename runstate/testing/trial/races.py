"""Two actors at once: what both were told must be what some order of the two could have told them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any, Final

from runstate.lifecycle import Law, RunEvent, RunStatus
from runstate.testing.records import fields_of
from runstate.testing.trial.challenges import Found, axes
from runstate.testing.trial.courses import Answer, ask_once, way_to
from runstate.testing.trial.judgement import Charge
from runstate.testing.trial.judging import outcomes
from runstate.testing.trial.subject import Loading, Subject

__all__ = ["try_races"]

_WAIT_S: Final = 60.0
Told = tuple[bool, bool, RunStatus]  # whether the first and the second were told yes, and where the run stands


def try_races(subject: Subject, law: Law, rounds: int) -> Found:
    """Let two threads ask at the same moment, `rounds` times each pair of events that is legal where a run stands."""
    found = Found("race")
    for status in axes(law)[0]:
        way = way_to(law, status)
        for pair in _pairs(law, status) if way is not None else ():
            possible = _possible(law, status, pair)
            for _ in range(rounds):
                told = _race(subject, way or (), pair)
                if told is None:
                    break
                found.tried += 1
                if told not in possible:
                    found.charges.append(_charge(way or (), status, pair, told))
                    break
    return found


def _pairs(law: Law, status: RunStatus) -> Iterator[tuple[RunEvent, RunEvent]]:
    """Yield the pairs of events of which the one that comes second is refused, in at least one order."""
    for first, second in combinations_with_replacement(law.allowed_events(status), 2):
        if not law.find(law.target_of(first), second) or not law.find(law.target_of(second), first):
            yield first, second


def _possible(law: Law, status: RunStatus, pair: tuple[RunEvent, RunEvent]) -> set[Told]:
    """Return what the two may be told, and where the run may stand, by the one order and by the other."""
    found: set[Told] = set()
    for winner, (first, second) in enumerate((pair, pair[::-1])):
        for way in outcomes(law, status, first):
            came = law.target_of(way[-1])
            ends = [law.target_of(onward[-1]) for onward in outcomes(law, came, second)]
            for yes, end in [(True, end) for end in ends] or [(False, came)]:
                found.add((True, yes, end) if winner == 0 else (yes, True, end))
            if first is second:  # the same request twice may be recognised, and answered alike
                found.add((True, True, came))
    return found


def _race(subject: Subject, way: tuple[RunEvent, ...], pair: tuple[RunEvent, RunEvent]) -> Told | None:
    """Race two events on a new run; return what was told, None where it could not be put to the test."""
    try:
        run = subject.create()
    except Exception:
        return None
    if any(ask_once(subject, run, event)[0] != "moved" for event in way):
        return None
    copies: list[Any] = [subject.load(run) if isinstance(subject, Loading) else run for _ in pair]
    barrier = threading.Barrier(2, timeout=_WAIT_S)
    answers: list[Answer] = ["broke", "broke"]

    def ask(place: int) -> None:
        barrier.wait()
        answers[place] = ask_once(subject, copies[place], pair[place])[0]

    racing = [threading.Thread(target=ask, args=(place,), daemon=True) for place in (0, 1)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join(_WAIT_S)
    if "not offered" in answers:
        return None
    return answers[0] == "moved", answers[1] == "moved", RunStatus(fields_of(subject.read(run))["status"])


def _charge(way: tuple[RunEvent, ...], status: RunStatus, pair: tuple[RunEvent, RunEvent], told: Told) -> Charge:
    said = [f"{event} was {'accepted' if yes else 'refused'}" for event, yes in zip(pair, told[:2], strict=True)]
    lines = (
        "run = subject.create()",
        *(f'subject.ask(run, "{event}")' for event in way),
        *(f'threading.Thread(target=subject.ask, args=(run, "{event}")).start()' for event in pair),
    )
    found = f"{' and '.join(said)}, and the run is {told[2]}"
    return Charge("race", status, pair[1], f"{pair[0]} and {pair[1]} to come one after the other", found, lines)
