"""The conformance kit: tests an implementation of runs against the table of transitions.

    from runstate.testing.conformance import FunctionAdapter, check_conformance

    check_conformance(FunctionAdapter(create=make, send=send, read=read, refused=ValueError)).assert_conforms()

The kit checks every cell, every legal walk with its stamps, repeated requests, requests by actors whose copy is stale,
workers that come back after their lease has lapsed, and races of two threads. The report has a matrix of the cells, and
for each violation the calls that reproduce it. Adapters: `FunctionAdapter`, `ObjectAdapter` (classes with methods),
`SqlTableAdapter`, `HttpAdapter`, and for the runs of this library `InMemoryAdapter` and `StoreAdapter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
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
from runstate.testing.conformance._leases import check_leases
from runstate.testing.conformance._races import check_races
from runstate.testing.conformance._report import ConformanceReport, Requirement, Verdict, Violation
from runstate.testing.conformance._requirements import (
    RequirementResult,
    check_cells,
    check_repeats,
    check_stale_copies,
    check_walks,
)
from runstate.testing.conformance._scenarios import TimeStep, read_run
from runstate.testing.conformance._system import (
    EventNotOffered,
    EventRefused,
    SupportsClock,
    SystemUnderTest,
    lifecycle_of,
    name_of,
)
from runstate.testing.matrix import CellKey

__all__ = [
    "ConformanceReport",
    "EventNotOffered",
    "EventRefused",
    "FunctionAdapter",
    "HttpAdapter",
    "InMemoryAdapter",
    "ObjectAdapter",
    "SqlTableAdapter",
    "StoreAdapter",
    "SystemUnderTest",
    "Violation",
    "check_conformance",
]

_STAMPS: Final = ("created_at", *get_args(Stamp))
_REAL_STEP_S: Final = 1.05
_CLOCK_STEP_S: Final = 60


def check_conformance(
    system: SystemUnderTest,
    *,
    race_rounds: int = 20,
    time_step_s: float | None = None,
    race_timeout_s: float = 30.0,
    allow_repeats: bool = False,
) -> ConformanceReport:
    """Check a system against all requirements and return the report. Errors of the system are reported, not raised.

    `race_rounds` is how often each pair of events is raced; 0 if the system must not be called by two threads. If two
    threads get no reply within `race_timeout_s` seconds, they block each other. `time_step_s` is how many seconds to
    wait between two moves of a run, so that a stamp that is written again differs from the old one. By default it is a
    second for a system with stamps, and nothing if the system has `advance`. With `allow_repeats`, a repeated request
    may be accepted if it changes nothing, as some services do for a client that lost the first reply. Otherwise it must
    be refused, according to the table.

    Raises `TypeError` if `system` is not an adapter.
    """
    missing = [name for name in ("create", "send", "read") if not callable(getattr(system, name, None))]
    if missing or isinstance(system, type):
        raise TypeError(f"expected an adapter with create, send, read and refused; {_describe(system)} is none")
    lifecycle = lifecycle_of(system)
    time_step = _time_step(system, time_step_s)
    results = [check_cells(system, lifecycle, time_step, allow_repeats)]
    if "holds" in results[0].cells.values():
        results += [check_walks(system, lifecycle, time_step), check_repeats(system, lifecycle, time_step)]
        results.append(check_stale_copies(system, lifecycle, time_step, _wrong_cells(results)))
        results.append(check_leases(system, lifecycle))
        results.append(check_races(system, lifecycle, race_rounds, race_timeout_s, _wrong_cells(results)))
    cells: Mapping[CellKey, Verdict] = results[0].cells
    checked: dict[Requirement, int] = {each.requirement: each.checked for each in results if each.checked}
    return ConformanceReport(name_of(system), lifecycle, cells, tuple(_without_duplicates(lifecycle, results)), checked)


def _describe(system: object) -> str:
    return f"the class {system.__name__}" if isinstance(system, type) else with_article(type(system).__name__)


def _wrong_cells(results: list[RequirementResult]) -> set[CellKey]:
    """Return the cells that are already wrong with one actor."""
    violations = (violation for each in results for violation in each.violations if violation.is_wrong_answer)
    return {(each.status, each.event) for each in violations if each.event is not None}


def _without_duplicates(lifecycle: Lifecycle, results: list[RequirementResult]) -> Iterator[Violation]:
    """Yield each violation once, by its shortest reproduction; those of cells come first."""
    first = sorted(results[0].violations, key=lambda violation: violation.sort_key(lifecycle))
    cells = {(violation.status, violation.event) for violation in first}
    reported: set[tuple[object, ...]] = set()
    for violation in (*first, *chain.from_iterable(result.violations for result in results[1:])):
        key = (violation.status, violation.event, violation.other_event, *violation.kind[1:])
        if key in reported or (violation.requirement == "repeat" and (violation.status, violation.event) in cells):
            continue
        reported.add(key)
        yield violation


def _time_step(system: SystemUnderTest, time_step_s: float | None) -> TimeStep:
    """Return the way to let time pass between two moves."""
    if isinstance(system, SupportsClock) and time_step_s is None:
        return TimeStep(lambda: _advance(system), changes_stamps=True, line=f"system.advance({_CLOCK_STEP_S})")
    seconds = _REAL_STEP_S * _has_stamps(system) if time_step_s is None else time_step_s
    if not seconds:
        return TimeStep(lambda: None, changes_stamps=False, line="")
    return TimeStep(lambda: sleep(seconds), changes_stamps=seconds > 1, line=f"time.sleep({seconds:g})")


def _advance(system: SupportsClock) -> None:
    try:
        system.advance(_CLOCK_STEP_S)
    except Exception:  # then real time must pass
        sleep(_REAL_STEP_S)


def _has_stamps(system: SystemUnderTest) -> bool:
    try:
        return any(name in read_run(system, system.create()) for name in _STAMPS)
    except Exception:  # the checks report what is wrong with it
        return False
