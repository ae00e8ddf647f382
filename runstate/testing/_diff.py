"""What the kit sees of a run: its fields, as far as it has them, and what a move did to them.

A field that somebody's run does not have is not asked for. A `Run` has them all.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast, get_args

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.run import record
from runstate.run.snapshot import RunSnapshot

__all__ = ["FIELDS", "fields_of", "outcomes", "unlike_a_birth", "unlike_a_move", "what_changed"]

_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_HELD: Final[tuple[StatusField, ...]] = get_args(StatusField)
FIELDS: Final[tuple[str, ...]] = ("status", *_STAMPS, *_HELD)
"""What a transition may write."""

_CONSTANT: Final = tuple(name for name in record.FIELDS if name not in FIELDS)


def fields_of(run: object) -> dict[str, Any]:
    """Return what a run has of the fields of a run, as it is now: of an object its attributes, of a mapping its items.

    Statuses are plain strings in it, and the keys of a mapping in snake_case. Raises `TypeError` where there is no
    status.
    """
    kind = type(run).__name__
    if isinstance(run, RunSnapshot):
        return run.to_dict()
    found: dict[str, Any]
    if isinstance(run, Mapping):
        found = {_snake(str(key)): value for key, value in cast("Mapping[object, Any]", run).items()}
    else:
        names = (*_CONSTANT, *FIELDS)
        found = {name: getattr(run, name) for name in names if hasattr(run, name)}
    if found.get("status") is None:
        raise TypeError(f"{kind} has no status, so it is no run")
    status = found["status"]
    found["status"] = str(status.value if isinstance(status, Enum) else status)
    return {name: copy.deepcopy(value) for name, value in found.items() if not callable(value)}


def _snake(key: str) -> str:
    """Return a key as the wire spells it, where it came as JavaScript spells it."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda letter: f"_{letter[0].lower()}", key)


def what_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return each field of a run that differs, told: `status went from queued to in_progress`."""
    return tuple(
        f"{name} went from {_told(before.get(name))} to {_told(after.get(name))}"
        for name in (*_CONSTANT, *FIELDS)
        if before.get(name) != after.get(name)
    )


def outcomes(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> tuple[tuple[RunEvent, ...], ...]:
    """Return what a legal event may come to, as the events it passes; () where it is refused.

    Nobody works on a run that waits, so there a cancel may arrive at once, in one commit (LIFECYCLE, "The law").
    """
    if lifecycle.find(status, event) is None:
        return ()
    cancel, confirm = RunEvent.REQUEST_CANCEL, RunEvent.CONFIRM_CANCEL
    waits = event is cancel and lifecycle.find(status, RunEvent.REQUIRE_ACTION) is None
    if waits and lifecycle.find(lifecycle.target_of(cancel), confirm) is not None:
        return ((cancel,), (cancel, confirm))
    return ((event,),)


def unlike_a_birth(run: Mapping[str, Any], lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[str, ...]:
    """Return what a new run should not be, told: it is queued, with its deadline, and nothing else."""
    wrong = [] if run["status"] == INITIAL_STATUS else [f"it is created {run['status']}, not {INITIAL_STATUS}"]
    wrong += [f"{stamp} is {_told(run[stamp])} at creation" for stamp in _STAMPS if run.get(stamp) is not None]
    return (*wrong, *_unheld(run, INITIAL_STATUS, lifecycle))


def unlike_a_move(
    before: Mapping[str, Any],
    events: Sequence[RunEvent],
    after: Mapping[str, Any],
    *,
    at: object = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> tuple[str, ...]:
    """Return what legal events asked of `before`, one after the other, would not have left, told.

    `at` is the time of the last of them, where it is known. What neither of the two has is not looked at.
    """
    target = lifecycle.target_of(events[-1])
    if after["status"] != target:
        return (f"status is {after['status']}, not {target}",)
    stamps: list[Stamp | None] = [_stamp_of(event, lifecycle) for event in events]
    return (
        *_unstamped(before, after, stamps, at),
        *_unheld(after, target, lifecycle),
        *_unkept(before, after, target, lifecycle),
    )


def _stamp_of(event: RunEvent, lifecycle: Lifecycle) -> Stamp | None:
    return next((row.stamp for row in lifecycle.transitions if row.event is event), None)


def _unstamped(
    before: Mapping[str, Any], after: Mapping[str, Any], stamps: Sequence[Stamp | None], at: object
) -> Iterator[str]:
    """Yield each stamp that should have been written and was not, or the other way round."""
    for stamp in _STAMPS:
        if stamp not in after:
            continue
        old, new = before.get(stamp), after[stamp]
        if stamp not in stamps:
            if new != old:
                yield f"{stamp} went from {_told(old)} to {_told(new)}, and this move does not write it"
        elif new is None:
            yield f"{stamp} is null, and this move stamps it"
        elif at is not None and stamp == stamps[-1] and new != at:
            yield f"{stamp} is {_told(new)}, and the move was made at {at}"


def _unheld(run: Mapping[str, Any], status: RunStatus, lifecycle: Lifecycle) -> Iterator[str]:
    """Yield each field that should have a value in a status and has none, or the other way round."""
    for field in _HELD:
        if field in run and (run[field] is not None) is not lifecycle.is_present(field, status):
            yield f"{field} is {_told(run[field])}, and in {status} it {_has(lifecycle.is_present(field, status))}"


def _unkept(
    before: Mapping[str, Any], after: Mapping[str, Any], target: RunStatus, lifecycle: Lifecycle
) -> Iterator[str]:
    """Yield each field that no transition writes and that changed all the same."""
    for field in _CONSTANT:
        if field in before and before[field] != after.get(field):
            yield f"{field} went from {_told(before[field])} to {_told(after.get(field))}, and it never changes"
    if lifecycle.is_present("expires_at", target) and before.get("expires_at") != after.get("expires_at"):
        old, new = before.get("expires_at"), after.get("expires_at")
        if old is not None and new is not None:
            yield f"expires_at went from {_told(old)} to {_told(new)}, and a deadline is never moved"


def _has(value: bool) -> str:
    return "has a value" if value else "is null"


def _told(value: object) -> str:
    return "null" if value is None else str(value)[:60]
