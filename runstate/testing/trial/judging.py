"""The law's opinion of one step: what it expected, and what was found instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstate.lifecycle import Law, RunEvent, RunStatus
from runstate.testing.records import unlike_a_move, what_changed
from runstate.testing.trial.courses import Step

__all__ = ["expected_of", "fault_of", "is_lawful", "outcomes"]


def outcomes(law: Law, status: RunStatus, event: RunEvent) -> tuple[tuple[RunEvent, ...], ...]:
    """Return what a legal event may come to, as the events it passes; () where it is refused.

    Nobody works on a run that waits, so there a cancel may arrive at once, in one commit (LIFECYCLE, "The law").
    """
    if law.find(status, event) is None:
        return ()
    cancel, confirm = RunEvent.REQUEST_CANCEL, RunEvent.CONFIRM_CANCEL
    waits = event is cancel and law.find(status, RunEvent.REQUIRE_ACTION) is None
    if waits and law.find(law.target_of(cancel), confirm) is not None:
        return ((cancel,), (cancel, confirm))
    return ((event,),)


def expected_of(law: Law, status: RunStatus, event: RunEvent) -> str:
    """Return what the law expects, told."""
    row = law.find(status, event)
    return "to be refused, and nothing changed" if row is None else f"to come to {row.target}"


def is_lawful(law: Law, step: Step) -> bool:
    """Tell whether a step was a move that the law has a row for, and came where it leads."""
    row = law.find(step.source, step.event)
    return step.answer == "moved" and row is not None and step.target is row.target


def fault_of(law: Law, step: Step) -> str | None:
    """Return what is wrong with a step, told; None if nothing is, or nothing was asked."""
    if step.answer == "not offered":
        return None
    if step.answer == "broke":
        return f"it broke: {step.said}"
    changed = what_changed(step.before, step.after)
    ways = outcomes(law, step.source, step.event)
    if not ways:
        if step.answer == "moved":
            return f"accepted: {_came(step.after, changed)}"
        return f"refused, and yet {'; '.join(changed)}" if changed else None
    if step.answer == "refused":
        said = f"refused: {step.said[:120]}" if step.said else "refused"
        return f"{said}; and yet {'; '.join(changed)}" if changed else said
    way = next((way for way in ways if law.target_of(way[-1]) is step.target), None)
    if way is None:
        return f"accepted: {_came(step.after, changed)}"
    return "; ".join(unlike_a_move(step.before, way, step.after, law=law)) or None


def _came(after: Mapping[str, Any], changed: tuple[str, ...]) -> str:
    others = [change for change in changed if not change.startswith("status ")]
    return "; ".join((f"it is {after['status']}", *others))
