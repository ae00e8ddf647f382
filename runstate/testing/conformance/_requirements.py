"""The requirements that are checked by one thread: cells, walks, repeated events, and events by stale copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import chain
from typing import Any, Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import creation_violations, diff_fields
from runstate.testing.conformance._expectations import (
    REFUSED,
    difference_of,
    expected_outcome,
    path_taken,
    summarize_changes,
)
from runstate.testing.conformance._report import Requirement, Verdict, Violation
from runstate.testing.conformance._scenarios import (
    Scenario,
    TimeStep,
    describe_error,
    path_to,
    read_run,
    reproduction_lines,
    run_scenarios,
    send,
)
from runstate.testing.conformance._system import SupportsLoad, SystemUnderTest
from runstate.testing.matrix import CellKey, walks

__all__ = [
    "RequirementResult",
    "check_cells",
    "check_repeats",
    "check_stale_copies",
    "check_walks",
    "statuses_and_events",
]

_MAX_EVENTS: Final = 6


@attrs.define
class RequirementResult:
    """The result of the checks of one requirement."""

    requirement: Requirement
    checked: int = 0
    violations: list[Violation] = attrs.field(factory=list[Violation])
    cells: dict[CellKey, Verdict] = attrs.field(factory=dict[CellKey, Verdict])


def statuses_and_events(lifecycle: Lifecycle) -> tuple[tuple[RunStatus, ...], tuple[RunEvent, ...]]:
    """Return the statuses and the events that a table of transitions mentions."""
    met = {INITIAL_STATUS, *chain.from_iterable((row.source, row.target) for row in lifecycle.transitions)}
    return tuple(status for status in RunStatus if status in met), lifecycle.events


def check_cells(
    system: SystemUnderTest, lifecycle: Lifecycle, time_step: TimeStep, allow_repeats: bool
) -> RequirementResult:
    """Send every event in every status, each to a run of its own; `check_conformance` explains `allow_repeats`."""
    statuses, events = statuses_and_events(lifecycle)
    result = RequirementResult("cell")
    keys = [(status, event) for status in statuses for event in events]
    paths = {status: path_to(lifecycle, status) or () for status in statuses}
    plans = [(*paths[status], event) for status, event in keys]
    scenarios = dict(zip(keys, _run_scenarios(system, lifecycle, plans, time_step, result), strict=True))
    for scenario in list(scenarios.values())[:1]:  # all runs are created alike
        differences = "; ".join(creation_violations(scenario.created, lifecycle)) if scenario.created else ""
        if differences:
            result.violations.append(_creation_violation(scenario, differences))
    others = _other_paths(lifecycle, scenarios)
    scenarios |= zip(others, _run_scenarios(system, lifecycle, others.values(), time_step, result), strict=True)
    for key, scenario in scenarios.items():
        result.cells[key] = _verdict(lifecycle, key, scenario, time_step, result, allow_repeats)
        result.checked += result.cells[key] in ("holds", "wrong")
    return result


def _run_scenarios(
    system: SystemUnderTest,
    lifecycle: Lifecycle,
    plans: Iterable[Sequence[RunEvent]],
    time_step: TimeStep,
    result: RequirementResult,
) -> list[Scenario]:
    """Run scenarios as long as their steps are legal; report once that a run cannot be created."""
    scenarios = run_scenarios(system, plans, time_step, partial(path_taken, lifecycle))
    result.violations += [
        _creation_violation(scenario, scenario.stopped) for scenario in scenarios if not scenario.created
    ][:1]
    return scenarios


def _creation_violation(scenario: Scenario, found: str) -> Violation:
    lines = ("run = system.create()", *(["system.read(run)"] if scenario.run is not None else []))
    return Violation("creation", INITIAL_STATUS, None, f"to be created {INITIAL_STATUS}", found, lines)


def _other_paths(lifecycle: Lifecycle, scenarios: dict[CellKey, Scenario]) -> dict[CellKey, tuple[RunEvent, ...]]:
    """Return other paths to the statuses whose usual path needs an event that is not offered."""
    absent = {step.event for scenario in scenarios.values() for step in scenario.steps if step.answer == "not offered"}
    return {
        (status, event): (*path, event)
        for status, event in scenarios
        if absent & {*(path_to(lifecycle, status) or ())} and (path := path_to(lifecycle, status, absent)) is not None
    }


def _verdict(
    lifecycle: Lifecycle,
    key: CellKey,
    scenario: Scenario,
    time_step: TimeStep,
    result: RequirementResult,
    allow_repeats: bool,
) -> Verdict:
    step = scenario.last
    if step is None or step.source is not key[0]:
        return "not reached"
    if step.answer == "not offered":
        return "not offered"
    difference = (
        None
        if allow_repeats and _is_allowed_repeat(scenario)
        else difference_of(lifecycle, step, time_passed=time_step.changes_stamps)
    )
    if difference is None:
        return "holds"
    result.violations.append(_violation("cell", lifecycle, scenario, difference, time_step))
    return "wrong"


def _is_allowed_repeat(scenario: Scenario) -> bool:
    """Return whether the last step repeats the one before, was accepted, and changed nothing."""
    first, last = scenario.steps[-2:] if len(scenario.steps) > 1 else (None, scenario.steps[-1])
    same = first is not None and first.event is last.event
    return same and last.answer == "moved" and not diff_fields(last.before, last.after)


def _violation(
    requirement: Requirement, lifecycle: Lifecycle, scenario: Scenario, found: str, time_step: TimeStep
) -> Violation:
    step = scenario.steps[-1]
    lines = tuple(reproduction_lines(scenario.steps, wait=time_step.line if "_at " in found else ""))
    expected = expected_outcome(lifecycle, step.source, step.event)
    return Violation(requirement, step.source, step.event, expected, found, lines)


def check_walks(system: SystemUnderTest, lifecycle: Lifecycle, time_step: TimeStep) -> RequirementResult:
    """Follow every legal walk and check its last step: an event may work the first time and not the second time."""
    result = RequirementResult("walk")
    plans = [walk.events for walk in walks(_MAX_EVENTS, lifecycle) if len(walk.events) > 1]
    for scenario in _run_scenarios(system, lifecycle, plans, time_step, result):
        step = scenario.last
        if step is None or step.answer == "not offered":
            continue
        result.checked += 1
        # Shorter walks and the cells cover all steps but the last.
        difference = difference_of(lifecycle, step, time_passed=time_step.changes_stamps)
        if difference is not None:
            result.violations.append(_violation("walk", lifecycle, scenario, difference, time_step))
    return result


def check_repeats(system: SystemUnderTest, lifecycle: Lifecycle, time_step: TimeStep) -> RequirementResult:
    """Send every legal event twice: the second time it is refused, or accepted without a change."""
    result = RequirementResult("repeat")
    paths = [
        (*path, row.event) for row in lifecycle.transitions if (path := path_to(lifecycle, row.source)) is not None
    ]
    plans = [(*path, path[-1]) for path in paths if lifecycle.find(lifecycle.target_of(path[-1]), path[-1]) is None]
    for scenario in _run_scenarios(system, lifecycle, plans, time_step, result):
        step = scenario.last
        if step is None or step.answer == "not offered":
            continue
        result.checked += 1
        changed = diff_fields(step.before, step.after)
        if changed or step.answer == "broke":
            difference = f"it broke: {step.text}" if step.answer == "broke" else "; ".join(changed)
            result.violations.append(_violation("repeat", lifecycle, scenario, difference, time_step))
    return result


def check_stale_copies(
    system: SystemUnderTest, lifecycle: Lifecycle, time_step: TimeStep, wrong_cells: AbstractSet[CellKey]
) -> RequirementResult:
    """Let one actor read a run, another move it, and the first send an event that was legal when it read the run.

    `wrong_cells`, which are wrong with a fresh copy already, are left out.
    """
    result = RequirementResult("stale")
    if not isinstance(system, SupportsLoad):
        return result
    cases = list(_stale_cases(lifecycle, wrong_cells))
    scenarios = _run_scenarios(system, lifecycle, [path for path, _, _ in cases], time_step, result)
    read = [(case, scenario, _load_copy(system, scenario)) for case, scenario in zip(cases, scenarios, strict=True)]
    time_step.run()
    for (_, first_event, event), scenario, (copy, error) in read:
        difference = error or (
            None if scenario.stopped else _send_by_stale_copy(system, lifecycle, scenario.run, copy, first_event, event)
        )
        if difference is not None:
            result.checked += 1
        if difference:
            result.violations.append(_stale_violation(lifecycle, scenario, first_event, event, difference))
    return result


def _stale_cases(
    lifecycle: Lifecycle, wrong_cells: AbstractSet[CellKey]
) -> Iterator[tuple[tuple[RunEvent, ...], RunEvent, RunEvent]]:
    """Yield the path to the status in which a copy is read, the event of the other actor, and that of the copy."""
    statuses, events = statuses_and_events(lifecycle)
    for status in statuses:
        path = path_to(lifecycle, status)
        for first_event in lifecycle.allowed_events(status) if path is not None else ():
            for event in events:
                late = lifecycle.target_of(first_event), event
                if (
                    lifecycle.find(status, event)
                    and not lifecycle.find(*late)
                    and not {late, (status, first_event)} & wrong_cells
                ):
                    yield path or (), first_event, event


def _load_copy(system: SupportsLoad, scenario: Scenario) -> tuple[Any, str]:
    """Return a copy as another actor reads it, and the error, if any, in words."""
    try:
        return (None if scenario.stopped else system.load(scenario.run)), ""
    except Exception as error:
        return None, f"it broke: {describe_error(error)}"


def _send_by_stale_copy(
    system: SupportsLoad, lifecycle: Lifecycle, run: Any, copy: Any, first_event: RunEvent, event: RunEvent
) -> str | None:
    """Return in words what is wrong with the result for a stale copy; "" if nothing, None if there was no result."""
    try:
        moved = send(system, system.load(run), first_event)[0] == "moved"
        before = read_run(system, run)
        if not moved or before["status"] != lifecycle.target_of(first_event):
            return None
        answer, text = send(system, copy, event)
        changed = diff_fields(before, read_run(system, run))
    except Exception as error:
        return f"it broke: {describe_error(error)}"
    if answer == "not offered":
        return None
    if answer == "broke":
        return f"it broke: {text}"
    # A repeated request may be accepted: its first reply may have been lost.
    if not changed and (answer == "refused" or event is first_event):
        return ""
    was = "accepted" if answer == "moved" else "refused; and yet"
    return f"{was}: {summarize_changes(changed)}" if changed else "accepted, with nothing changed"


def _stale_violation(
    lifecycle: Lifecycle, scenario: Scenario, first_event: RunEvent, event: RunEvent, found: str
) -> Violation:
    lines = (
        *reproduction_lines(scenario.steps),
        "copy = system.load(run)",
        f'system.send(system.load(run), "{first_event}")',
        f'system.send(copy, "{event}")',
        "system.read(run)",
    )
    return Violation("stale", lifecycle.target_of(first_event), event, REFUSED, found, lines, other_event=first_event)
