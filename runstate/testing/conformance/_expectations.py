"""The law's opinion of one step: what it expected, and what was found instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.testing._diff import outcomes, unlike_a_move, what_changed
from runstate.testing.conformance._scenarios import Step

__all__ = ["REFUSED", "briefly", "expected_of", "fault_of", "way_taken"]

REFUSED: Final = "to be refused, and nothing changed"
_STAMPS: Final = ("created_at", *get_args(Stamp))


def expected_of(law: Lifecycle, status: RunStatus, event: RunEvent) -> str:
    """Return what the law expects, told."""
    row = law.find(status, event)
    return REFUSED if row is None else f"to come to {row.target}"


def way_taken(law: Lifecycle, step: Step) -> tuple[RunEvent, ...]:
    """Return the events that a step passed, by where it came; () if it was no move that the law has a row for."""
    ways = outcomes(law, step.source, step.event) if step.answer == "moved" else ()
    return next((way for way in ways if law.target_of(way[-1]) is step.target), ())


def fault_of(law: Lifecycle, step: Step, *, later: bool) -> str | None:
    """Return what is wrong with a step, told; None if nothing is, or nothing was asked.

    `later`: so much later than the step before that its stamp must differ.
    """
    changed = what_changed(step.before, step.after)
    and_yet = f"; and yet {briefly(changed)}" if changed else ""
    if step.answer == "not offered":
        return None
    if step.answer == "broke":
        return f"it broke: {step.said}{and_yet}"
    if step.answer == "refused":
        if law.find(step.source, step.event) is None:
            return f"refused{and_yet}" if changed else None
        return f"refused{f': {step.said}' if step.said else ''}{and_yet}"
    way = way_taken(law, step)
    return "; ".join(_unlike(law, step, way, later)) or None if way else f"accepted: {_came(step.target, changed)}"


def _unlike(law: Lifecycle, step: Step, way: Sequence[RunEvent], later: bool) -> Iterator[str]:
    """Yield what a legal move did otherwise than the law says, but not what was so before."""
    for told in unlike_a_move(step.before, way, step.after, law=law):
        if not _is_inherited(law, step, told.split(" ", 1)[0]):
            yield told
    written = {row.stamp for row in law.transitions if row.event in way and row.stamp is not None}
    for stamp in written if later else ():
        old, new = step.before.get(stamp), step.after.get(stamp)
        if new is not None and new == old:
            yield f"{stamp} is still {old}, and this move stamps it anew"
        elif isinstance(new, int | float):
            yield from _untimely(step.before, stamp, new)


def _is_inherited(law: Lifecycle, step: Step, name: str) -> bool:
    """Tell whether a field was already wrong, in the same way, where the run came from."""
    fields: tuple[StatusField, ...] = get_args(StatusField)
    old, new = step.before.get(name), step.after.get(name)
    return any(field == name and old == new and law.is_present(field, step.source) is (old is None) for field in fields)


def _untimely(before: Mapping[str, Any], stamp: str, new: float) -> Iterator[str]:
    for name in _STAMPS:
        old = before.get(name)
        if isinstance(old, int | float) and new < old:
            yield f"{stamp} is {new}, and {name} was {old} by then"
            return


def briefly(changed: Sequence[str]) -> str:
    """Return what changed, told: what goes along with a new status by its names alone."""
    if not changed or not changed[0].startswith("status "):
        return "; ".join(changed)
    return changed[0] + _with(changed[1:])


def _came(target: RunStatus, changed: Sequence[str]) -> str:
    """Return where it came, told; if the status did not change, what did."""
    moved = changed and changed[0].startswith("status ")
    return f"it is {target}{_with(changed[1:]) if moved else ''.join(f'; {change}' for change in changed)}"


def _with(changed: Sequence[str]) -> str:
    return f" (with {', '.join(change.split(' ', 1)[0] for change in changed)})" if changed else ""
