"""The fields of a run, and how they differ from what a legal move leaves.

A `Run` has all fields. Of a run of another class, only the fields that it has are compared.
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

__all__ = ["FIELDS", "creation_violations", "diff_fields", "move_violations", "possible_paths", "read_fields"]

_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_STATUS_FIELDS: Final[tuple[StatusField, ...]] = get_args(StatusField)
FIELDS: Final[tuple[str, ...]] = ("status", *_STAMPS, *_STATUS_FIELDS)
"""The fields that a transition may write."""

_CONSTANT_FIELDS: Final = tuple(name for name in record.FIELDS if name not in FIELDS)


def read_fields(run: object) -> dict[str, Any]:
    """Return the current fields of a run: the attributes of an object, or the items of a mapping.

    The status is a plain string, and keys are in snake_case. Raises `TypeError` if there is no status.
    """
    kind = type(run).__name__
    if isinstance(run, RunSnapshot):
        return run.to_dict()
    found: dict[str, Any]
    if isinstance(run, Mapping):
        found = {_snake_case(str(key)): value for key, value in cast("Mapping[object, Any]", run).items()}
    else:
        names = (*_CONSTANT_FIELDS, *FIELDS)
        found = {name: getattr(run, name) for name in names if hasattr(run, name)}
    if found.get("status") is None:
        raise TypeError(f"{kind} has no status, so it is no run")
    status = found["status"]
    found["status"] = str(status.value if isinstance(status, Enum) else status)
    return {name: copy.deepcopy(value) for name, value in found.items() if not callable(value)}


def _snake_case(key: str) -> str:
    """Return a camelCase key in snake_case."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda letter: f"_{letter[0].lower()}", key)


def diff_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words each field that differs: `status went from queued to in_progress`."""
    return tuple(
        f"{name} went from {_format(before.get(name))} to {_format(after.get(name))}"
        for name in (*_CONSTANT_FIELDS, *FIELDS)
        if before.get(name) != after.get(name)
    )


def possible_paths(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> tuple[tuple[RunEvent, ...], ...]:
    """Return the paths that a legal event may take, as tuples of events; () if the event is refused.

    A run that waits has no worker, so a cancel may be confirmed at once, in the same commit.
    """
    if lifecycle.find(status, event) is None:
        return ()
    cancel, confirm = RunEvent.REQUEST_CANCEL, RunEvent.CONFIRM_CANCEL
    waits = event is cancel and lifecycle.find(status, RunEvent.REQUIRE_ACTION) is None
    if waits and lifecycle.find(lifecycle.target_of(cancel), confirm) is not None:
        return ((cancel,), (cancel, confirm))
    return ((event,),)


def creation_violations(run: Mapping[str, Any], lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[str, ...]:
    """Return in words how a new run is wrong. A new run is queued, has its deadline, and has no stamp."""
    wrong = [] if run["status"] == INITIAL_STATUS else [f"it is created {run['status']}, not {INITIAL_STATUS}"]
    wrong += [f"{stamp} is {_format(run[stamp])} at creation" for stamp in _STAMPS if run.get(stamp) is not None]
    return (*wrong, *_presence_violations(run, INITIAL_STATUS, lifecycle))


def move_violations(
    before: Mapping[str, Any],
    events: Sequence[RunEvent],
    after: Mapping[str, Any],
    *,
    at: object = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> tuple[str, ...]:
    """Return in words how `after` differs from what legal `events`, one after the other, leave of `before`.

    `at` is the time of the last event, if it is known. Fields that neither of the two has are not compared.
    """
    target = lifecycle.target_of(events[-1])
    if after["status"] != target:
        return (f"status is {after['status']}, not {target}",)
    stamps: list[Stamp | None] = [_stamp_of(event, lifecycle) for event in events]
    return (
        *_stamp_violations(before, after, stamps, at),
        *_presence_violations(after, target, lifecycle),
        *_constant_violations(before, after, target, lifecycle),
    )


def _stamp_of(event: RunEvent, lifecycle: Lifecycle) -> Stamp | None:
    return next((row.stamp for row in lifecycle.transitions if row.event is event), None)


def _stamp_violations(
    before: Mapping[str, Any], after: Mapping[str, Any], stamps: Sequence[Stamp | None], at: object
) -> Iterator[str]:
    """Yield each stamp that was not written and should be, and each that was written and should not be."""
    for stamp in _STAMPS:
        if stamp not in after:
            continue
        old, new = before.get(stamp), after[stamp]
        if stamp not in stamps:
            if new != old:
                yield f"{stamp} went from {_format(old)} to {_format(new)}, and this move does not write it"
        elif new is None:
            yield f"{stamp} is null, and this move stamps it"
        elif at is not None and stamp == stamps[-1] and new != at:
            yield f"{stamp} is {_format(new)}, and the move was made at {at}"


def _presence_violations(run: Mapping[str, Any], status: RunStatus, lifecycle: Lifecycle) -> Iterator[str]:
    """Yield each field that has no value and should have one in this status, and the other way round."""
    for field in _STATUS_FIELDS:
        if field in run and (run[field] is not None) is not lifecycle.is_present(field, status):
            expected = _format_presence(lifecycle.is_present(field, status))
            yield f"{field} is {_format(run[field])}, and in {status} it {expected}"


def _constant_violations(
    before: Mapping[str, Any], after: Mapping[str, Any], target: RunStatus, lifecycle: Lifecycle
) -> Iterator[str]:
    """Yield each field that no transition writes and that changed."""
    for field in _CONSTANT_FIELDS:
        if field in before and before[field] != after.get(field):
            yield f"{field} went from {_format(before[field])} to {_format(after.get(field))}, and it never changes"
    if lifecycle.is_present("expires_at", target) and before.get("expires_at") != after.get("expires_at"):
        old, new = before.get("expires_at"), after.get("expires_at")
        if old is not None and new is not None:
            yield f"expires_at went from {_format(old)} to {_format(new)}, and a deadline is never moved"


def _format_presence(value: bool) -> str:
    return "has a value" if value else "is null"


def _format(value: object) -> str:
    return "null" if value is None else str(value)[:60]
