"""A trial: anybody's implementation of runs, held against the law.

    from runstate.testing.trial import Functions, hold_trial

    judgement = hold_trial(Functions(create=make, ask=ask, read=read, refused=ValueError))
    assert judgement.holds, judgement

The subject is driven through every cell, every legal walk with its stamps, every request asked twice, decisions of
actors whose copy went stale, workers who come back after their lease, and races of two. The judgement is a matrix of
the cells, and for each fault the calls that show it. Adapters: `Functions`, `Objects` (classes with methods),
`SqlTable`, `Http`, and for this library's own `RunsInMemory` and `RunsInStore`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, get_args

from runstate.clock import pause
from runstate.lifecycle import RunEvent, RunStatus, Stamp
from runstate.testing.records import fields_of
from runstate.testing.trial.adapters import Functions, Objects, RunsInMemory, RunsInStore, SqlTable
from runstate.testing.trial.challenges import Found, try_cells, try_stale, try_twice, try_walks
from runstate.testing.trial.http import Http
from runstate.testing.trial.judgement import Challenge, Charge, Judgement, Verdict
from runstate.testing.trial.leases import try_leases
from runstate.testing.trial.races import try_races
from runstate.testing.trial.subject import Clocked, NotOffered, Refused, Subject, law_of, name_of

__all__ = [
    "Charge",
    "Functions",
    "Http",
    "Judgement",
    "NotOffered",
    "Objects",
    "Refused",
    "RunsInMemory",
    "RunsInStore",
    "SqlTable",
    "Subject",
    "hold_trial",
]

_STAMPS: Final = ("created_at", *get_args(Stamp))
_A_SECOND: Final = 1.05


def hold_trial(subject: Subject, *, race_rounds: int = 20, tick_s: float | None = None) -> Judgement:
    """Drive a subject through all challenges, and return the judgement. It raises nothing of the subject's.

    `race_rounds` is how often each pair of events is raced; 0 for what is not to be asked by two threads. `tick_s` is
    how many seconds to wait between two moves of a run, so that a stamp written anew is seen to differ; a second where
    the subject has stamps, unless it has an `advance`.
    """
    law = law_of(subject)
    tick = _tick(subject, tick_s)
    found = [challenge(subject, law, tick) for challenge in (try_cells, try_walks, try_twice, try_stale)]
    found.append(try_leases(subject, law))
    if race_rounds:
        found.append(try_races(subject, law, race_rounds))
    charges = tuple(_told_once(found))
    cells: Mapping[tuple[RunStatus, RunEvent], Verdict] = found[0].cells
    tried: dict[Challenge, int] = {each.challenge: each.tried for each in found}
    return Judgement(name_of(subject), law, cells, charges, tried)


def _told_once(found: list[Found]) -> Iterator[Charge]:
    """Yield each fault once, by the shortest way: what a cell shows needs no second request and no stale copy."""
    cells = {(charge.status, charge.event) for charge in found[0].charges}
    told: set[tuple[object, ...]] = set()
    for charge in (charge for each in found for charge in each.charges):
        if charge.challenge in ("repeat", "stale") and (charge.status, charge.event) in cells:
            continue
        key = (charge.status, charge.event, charge.found)
        if charge.challenge != "walk" or key not in told:
            told.add(key)
            yield charge


def _tick(subject: Subject, tick_s: float | None) -> Callable[[], None]:
    """Return what lets time pass between two moves."""
    if isinstance(subject, Clocked) and tick_s is None:
        return lambda: subject.advance(60)
    seconds = _A_SECOND * _has_stamps(subject) if tick_s is None else tick_s
    return (lambda: pause(seconds)) if seconds else (lambda: None)


def _has_stamps(subject: Subject) -> bool:
    try:
        return any(name in fields_of(subject.read(subject.create())) for name in _STAMPS)
    except Exception:  # the trial itself will tell what is wrong with it
        return False
