"""Rows of the database to runs and entries, and the values of a run to what a row holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from runstate.lifecycle import INITIAL_STATUS, RunEvent, RunStatus
from runstate.run import Run, codec
from runstate.run.record import FIELDS, JsonObject
from runstate.store._types import Entry, StoredRun

__all__ = [
    "Row",
    "config_json",
    "decode_claimed",
    "decode_created",
    "decode_entry",
    "decode_run",
    "lease_of",
]

Row: TypeAlias = Sequence[Any]

_STATUS: Final = {str(status): status for status in RunStatus}
_EVENT: Final[Mapping[str | None, RunEvent | None]] = {None: None, **{str(event): event for event in RunEvent}}
_SETTINGS: Final = tuple(FIELDS)[tuple(FIELDS).index("instructions") :]
# What a run has that was created with nothing but its names.
_DEFAULT_RUN: Final = Run.create(id="-", thread_id="-", assistant_id="-", model="-", at=0)
_DEFAULT_VALUES: Final = dict(zip((*FIELDS, "extra"), _DEFAULT_RUN.field_values(), strict=True))
_KEPT: Final = tuple(name for name in _SETTINGS if name != "usage")


def config_json(run: Run) -> str | None:
    """Return what a new run was created with besides its names, as JSON text; None if nothing."""
    now = dict(zip((*FIELDS, "extra"), run.field_values(), strict=True))
    params = {name: codec.encode_field(now[name]) for name in _KEPT if _chosen(now[name], _DEFAULT_VALUES[name])}
    return json.dumps(params, separators=(",", ":"), allow_nan=False) if params else None


def _chosen(value: object, usual: object) -> bool:
    return value is not usual and (value != usual or type(value) is not type(usual))  # 1 equals True, but is not it


def _settings(kept: str | None) -> Mapping[str, Any]:
    if kept is None:
        return {}
    params: dict[str, Any] = json.loads(kept)
    if "tools" in params:
        params["tools"] = tuple(params["tools"])
    if "truncation_strategy" in params:
        params["truncation_strategy"] = codec.decode_field("truncation_strategy", params["truncation_strategy"])
    return params


def _read(field: str, kept: str | None) -> Any:
    return None if kept is None else codec.decode_field(field, json.loads(kept))


def _build(record: Mapping[str, Any], kept: str | None) -> StoredRun:
    return StoredRun.from_validated({**_DEFAULT_VALUES, **record, **_settings(kept)})


def decode_run(row: Row) -> StoredRun:
    """Return the run of a row of `Queries.columns`."""
    seq, run_id, created_at, thread_id, assistant_id, model, status = row[:7]
    version, event, source, at, actor, queue, priority, attempt, ready = row[7:16]
    expires_at, started_at, cancelled_at, failed_at, completed_at = row[16:21]
    required_action, last_error, incomplete_details, usage, settings = row[22:27]
    record = {
        "id": run_id,
        "created_at": created_at,
        "thread_id": thread_id,
        "assistant_id": assistant_id,
        "model": model,
        "status": _STATUS[status],
        "expires_at": expires_at,
        "started_at": started_at,
        "cancelled_at": cancelled_at,
        "failed_at": failed_at,
        "completed_at": completed_at,
        "required_action": _read("required_action", required_action),
        "last_error": _read("last_error", last_error),
        "incomplete_details": _read("incomplete_details", incomplete_details),
        "usage": _read("usage", usage),
    }
    run = _build(record, settings)
    run.seq, run.version, run.event = seq, version, _EVENT[event]
    run.source = None if source is None else _STATUS[source]
    run.changed_at_us, run.actor, run.queue, run.priority, run.attempt, run.claimable = (
        at,
        actor,
        queue,
        priority,
        attempt,
        bool(ready),
    )
    return run


def lease_of(row: Row) -> int | None:
    """Return the session that a row's run belongs to."""
    worker: int | None = row[21]
    return worker


def decode_claimed(row: Row) -> StoredRun:
    """Return the run of a row that a claim gave back: in progress, with no stamp but its start."""
    seq, _, run_id, _, thread_id, _, _, status, at, _, priority, attempt, expires_at, _, _, _ = row
    return StoredRun.lazy(
        _decode_claimed, row, seq, run_id, attempt, at, priority, _STATUS[status], expires_at, thread_id
    )


def _decode_claimed(row: Row) -> tuple[Any, ...]:
    seq, version, run_id, created_at, thread_id, assistant_id, model, status, at = row[:9]
    queue, priority, attempt, expires_at, started_at, actor, settings = row[9:]
    values = _CLAIMED.copy()
    values[0:5] = run_id, created_at, thread_id, assistant_id, _STATUS[status]
    values[_EXPIRES_AT], values[_STARTED_AT], values[_MODEL] = expires_at, started_at, model
    if settings is not None:
        for name, value in _settings(settings).items():
            values[_PLACE[name]] = value
    return (*values, seq, version, RunEvent.START, INITIAL_STATUS, at, actor, queue, priority, attempt, True)


def decode_created(run: Run, seq: int, at: int, actor: str | None, queue: str, priority: int, ready: bool) -> StoredRun:
    """Return a run that was just created, with the database's own time of birth."""
    values = list(run.field_values())
    created_at = at // 1_000_000
    values[_EXPIRES_AT] += created_at - values[_CREATED_AT]
    values[_CREATED_AT] = created_at
    new = StoredRun.__new__(StoredRun)
    new.__setstate__((*values, seq, 1, None, None, at, actor, queue, priority, 0, ready))
    return new


_PLACE: Final = {name: place for place, name in enumerate((*FIELDS, "extra"))}
_CREATED_AT: Final = _PLACE["created_at"]
_EXPIRES_AT: Final = _PLACE["expires_at"]
_STARTED_AT: Final = _PLACE["started_at"]
_MODEL: Final = _PLACE["model"]
_CLAIMED: Final = list(_DEFAULT_RUN.field_values())


def decode_entry(row: Row) -> Entry:
    """Return the entry of a row: run id, version, event, source, target, at, actor, detail, cursor."""
    run_id, version, event, source, target, at, actor, detail, cursor = row
    told: JsonObject | None = None if detail is None else json.loads(detail)
    gone = None if source is None else _STATUS[source]
    return Entry(run_id, version, _EVENT[event], gone, _STATUS[target], at, actor, told, str(cursor))
