"""A trial: anybody's implementation of runs, held against the law.

    from runstate.testing.conformance import FunctionAdapter, hold_trial

    hold_trial(FunctionAdapter(create=make, ask=ask, read=read, refused=ValueError)).assert_holds()

The subject is driven through every cell, every legal walk with its stamps, every request asked twice, decisions of
actors whose copy went stale, workers who come back after their lease, and races of two. The judgement is a matrix of
the cells, and for each fault the calls that show it. Adapters: `FunctionAdapter`, `ObjectAdapter` (classes with
methods), `SqlTableAdapter`, `HttpAdapter`, and for this library's own `InMemoryAdapter` and `StoreAdapter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, get_args

from runstate.clock import sleep
from runstate.lifecycle import Lifecycle, Stamp
from runstate.run.validators import with_article
from runstate.testing.conformance._adapters import (
    FunctionAdapter,
    InMemoryAdapter,
    ObjectAdapter,
    SqlTableAdapter,
    StoreAdapter,
)
from runstate.testing.conformance._http import HttpAdapter
from runstate.testing.conformance._leases import try_leases
from runstate.testing.conformance._races import try_races
from runstate.testing.conformance._report import Challenge, Charge, Judgement, Verdict
from runstate.testing.conformance._requirements import Found, try_cells, try_stale, try_twice, try_walks
from runstate.testing.conformance._scenarios import Tick, look_at
from runstate.testing.conformance._subject import Clocked, EventNotOffered, EventRefused, Subject, law_of, name_of
from runstate.testing.matrix import CellKey

__all__ = [
    "Charge",
    "EventNotOffered",
    "EventRefused",
    "FunctionAdapter",
    "HttpAdapter",
    "InMemoryAdapter",
    "Judgement",
    "ObjectAdapter",
    "SqlTableAdapter",
    "StoreAdapter",
    "Subject",
    "hold_trial",
]

_STAMPS: Final = ("created_at", *get_args(Stamp))
_A_SECOND: Final = 1.05
_CLOCKED_S: Final = 60


def hold_trial(
    subject: Subject,
    *,
    race_rounds: int = 20,
    tick_s: float | None = None,
    race_wait_s: float = 30.0,
    recognises: bool = False,
) -> Judgement:
    """Drive a subject through all challenges, and return the judgement. It raises nothing of the subject's.

    Raises `TypeError` for what is no adapter.

    `race_rounds` is how often each pair of events is raced; 0 for what is not to be asked by two threads. Two that
    are not answered within `race_wait_s` block each other. `tick_s` is how many seconds to wait between two moves of a
    run, so that a stamp written anew is seen to differ; a second where the subject has stamps, unless it has an
    `advance`. With `recognises`, a request that asks again what was just granted may be granted with nothing changed,
    as some answer a client whose answer was lost; else it is to be refused, as the law says.
    """
    missing = [name for name in ("create", "ask", "read") if not callable(getattr(subject, name, None))]
    if missing or isinstance(subject, type):
        raise TypeError(f"expected an adapter with create, ask, read and refused; {_called(subject)} is none")
    law = law_of(subject)
    tick = _tick(subject, tick_s)
    found = [try_cells(subject, law, tick, recognises)]
    if "holds" in found[0].cells.values():
        found += [try_walks(subject, law, tick), try_twice(subject, law, tick)]
        found.append(try_stale(subject, law, tick, _wrong(found)))
        found.append(try_leases(subject, law))
        found.append(try_races(subject, law, race_rounds, race_wait_s, _wrong(found)))
    cells: Mapping[CellKey, Verdict] = found[0].cells
    tried: dict[Challenge, int] = {each.challenge: each.tried for each in found if each.tried}
    return Judgement(name_of(subject), law, cells, tuple(_told_once(law, found)), tried)


def _called(subject: object) -> str:
    return f"the class {subject.__name__}" if isinstance(subject, type) else with_article(type(subject).__name__)


def _wrong(found: list[Found]) -> set[CellKey]:
    """Return the cells that answer wrongly, whoever asks."""
    charges = (charge for each in found for charge in each.charges if charge.is_grave)
    return {(charge.status, charge.event) for charge in charges if charge.event is not None}


def _told_once(law: Lifecycle, found: list[Found]) -> Iterator[Charge]:
    """Yield each fault once, by the shortest way, and the most telling ones of the cells first."""
    first = sorted(found[0].charges, key=lambda charge: charge.weight(law))
    cells = {(charge.status, charge.event) for charge in first}
    told: set[tuple[object, ...]] = set()
    for charge in (*first, *(charge for each in found[1:] for charge in each.charges)):
        key = (charge.status, charge.event, charge.beside, *charge.kind[1:])
        if key in told or (charge.challenge == "repeat" and (charge.status, charge.event) in cells):
            continue
        told.add(key)
        yield charge


def _tick(subject: Subject, tick_s: float | None) -> Tick:
    """Return what lets time pass between two moves."""
    if isinstance(subject, Clocked) and tick_s is None:
        return Tick(lambda: _advance(subject), is_seen=True, line=f"subject.advance({_CLOCKED_S})")
    seconds = _A_SECOND * _has_stamps(subject) if tick_s is None else tick_s
    if not seconds:
        return Tick(lambda: None, is_seen=False, line="")
    return Tick(lambda: sleep(seconds), is_seen=seconds > 1, line=f"time.sleep({seconds:g})")


def _advance(subject: Clocked) -> None:
    try:
        subject.advance(_CLOCKED_S)
    except Exception:  # then time must pass by itself
        sleep(_A_SECOND)


def _has_stamps(subject: Subject) -> bool:
    try:
        return any(name in look_at(subject, subject.create()) for name in _STAMPS)
    except Exception:  # the trial itself will tell what is wrong with it
        return False
