"""What the table of transitions expects of one step, and how the step differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.testing._diff import diff_fields, move_violations, possible_paths
from runstate.testing.conformance._scenarios import Step

__all__ = ["REFUSED", "difference_of", "expected_outcome", "path_taken", "summarize_changes"]

REFUSED: Final = "to be refused, and nothing changed"
_STAMPS: Final = ("created_at", *get_args(Stamp))


def expected_outcome(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> str:
    """Return what the table expects, in words."""
    row = lifecycle.find(status, event)
    return REFUSED if row is None else f"to come to {row.target}"


def path_taken(lifecycle: Lifecycle, step: Step) -> tuple[RunEvent, ...]:
    """Return the events that lead to the target of a step; () if the table has no such move."""
    paths = possible_paths(lifecycle, step.source, step.event) if step.answer == "moved" else ()
    return next((path for path in paths if lifecycle.target_of(path[-1]) is step.target), ())


def difference_of(lifecycle: Lifecycle, step: Step, *, time_passed: bool) -> str | None:
    """Return in words how a step differs from the table; None if it does not, or if the event is not offered.

    `time_passed` says that so much time has passed since the step before that a new stamp must differ.
    """
    changed = diff_fields(step.before, step.after)
    and_yet = f"; and yet {summarize_changes(changed)}" if changed else ""
    if step.answer == "not offered":
        return None
    if step.answer == "broke":
        return f"it broke: {step.text}{and_yet}"
    if step.answer == "refused":
        if lifecycle.find(step.source, step.event) is None:
            return f"refused{and_yet}" if changed else None
        return f"refused{f': {step.text}' if step.text else ''}{and_yet}"
    path = path_taken(lifecycle, step)
    return (
        "; ".join(_move_differences(lifecycle, step, path, time_passed)) or None
        if path
        else f"accepted: {_format_target(step.target, changed)}"
    )


def _move_differences(lifecycle: Lifecycle, step: Step, path: Sequence[RunEvent], time_passed: bool) -> Iterator[str]:
    """Yield what a legal move did otherwise than the table says, leaving out what was wrong before it."""
    for difference in move_violations(step.before, path, step.after, lifecycle=lifecycle):
        if not _is_inherited(lifecycle, step, difference.split(" ", 1)[0]):
            yield difference
    written = {row.stamp for row in lifecycle.transitions if row.event in path and row.stamp is not None}
    for stamp in written if time_passed else ():
        old, new = step.before.get(stamp), step.after.get(stamp)
        if new is not None and new == old:
            yield f"{stamp} is still {old}, and this move stamps it anew"
        elif isinstance(new, int | float):
            yield from _stamps_out_of_order(step.before, stamp, new)


def _is_inherited(lifecycle: Lifecycle, step: Step, name: str) -> bool:
    """Return whether a field was wrong in the same way before the step."""
    fields: tuple[StatusField, ...] = get_args(StatusField)
    old, new = step.before.get(name), step.after.get(name)
    return any(
        field == name and old == new and lifecycle.is_present(field, step.source) is (old is None) for field in fields
    )


def _stamps_out_of_order(before: Mapping[str, Any], stamp: str, new: float) -> Iterator[str]:
    """Yield the first stamp that the new one should not be before."""
    for name in _STAMPS:
        old = before.get(name)
        if isinstance(old, int | float) and new < old:
            yield f"{stamp} is {new}, and {name} was {old} by then"
            return


def summarize_changes(changed: Sequence[str]) -> str:
    """Return the changes in words; fields that change along with the status are only named."""
    if not changed or not changed[0].startswith("status "):
        return "; ".join(changed)
    return changed[0] + _format_names(changed[1:])


def _format_target(target: RunStatus, changed: Sequence[str]) -> str:
    """Return the status in words, and what changed besides; if the status did not change, what did."""
    moved = changed and changed[0].startswith("status ")
    return f"it is {target}{_format_names(changed[1:]) if moved else ''.join(f'; {change}' for change in changed)}"


def _format_names(changed: Sequence[str]) -> str:
    return f" (with {', '.join(change.split(' ', 1)[0] for change in changed)})" if changed else ""
