"""Rows of the database to runs and entries, and the values of a run to what a row holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias

from runstate.lifecycle import INITIAL_STATUS, RunEvent, RunStatus
from runstate.run import Run, codec
from runstate.run.record import FIELDS, JsonObject
from runstate.store._sql.columns import (
    CLAIMED_COLUMNS,
    CREATE_COLUMNS,
    RUN_COLUMNS,
    VALUES_AT_CREATION,
    getter,
    position,
)
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


def decode_run(row: Row) -> StoredRun:
    """Return the run of a row of `RUN_COLUMNS`."""
    record = dict(zip(_RECORDED, _recorded(row), strict=True))
    record["status"] = _STATUS[record["status"]]
    for name in _JSON:
        record[name] = _read(name, record[name])
    seq, version, event, source, *others, claimable, repeats = _stored(row)
    run = StoredRun.from_validated({**_DEFAULT_VALUES, **record, **_settings(row[_CONFIG_PLACE])})
    source = None if source is None else _STATUS[source]
    is_claimable = bool(claimable) and run.status is INITIAL_STATUS  # the column keeps its value when the run starts
    run.set_store_fields((seq, version, _EVENT[event], source, *others, is_claimable, repeats))
    return run


_JSON: Final = ("required_action", "last_error", "incomplete_details", "usage")
_RECORDED: Final = tuple(name for name in RUN_COLUMNS if name in FIELDS)
_recorded: Final = getter(RUN_COLUMNS, *_RECORDED)
_stored: Final = getter(RUN_COLUMNS, *StoredRun.STORE_FIELDS)
_CONFIG_PLACE: Final = position(RUN_COLUMNS, "config")
_LEASE: Final = position(RUN_COLUMNS, "worker")


def lease_of(row: Row) -> int | None:
    """Return the session that a row's run belongs to."""
    lease: int | None = row[_LEASE]
    return lease


def decode_claimed(row: Row) -> StoredRun:
    """Return the run of a row of `CLAIMED_COLUMNS`: in progress, with no stamp but its start."""
    seq, version, run_id, thread_id, status, at, priority, attempt, lost, expires_at = _known_at_once(row)
    return StoredRun.lazy(
        _decode_claimed, row, seq, version, run_id, attempt, lost, at, priority, _STATUS[status], expires_at, thread_id
    )


_known_at_once: Final = getter(
    CLAIMED_COLUMNS,
    *("seq", "version", "id", "thread_id", "status"),
    *("changed_at_us", "priority", "attempt", "lost", "expires_at"),
)


def _decode_claimed(row: Row) -> tuple[Any, ...]:
    status, config = _status_and_config(row)
    values: tuple[Any, ...] = _arranged((*row, _STATUS[status], RunEvent.START, INITIAL_STATUS, False, *_CLAIMED))
    if config is None:
        return values
    chosen = list(values)
    for name, value in _settings(config).items():
        chosen[_PLACE[name]] = value
    return tuple(chosen)


_status_and_config: Final = getter(CLAIMED_COLUMNS, "status", "config")


def decode_created(run: Run, row: Row, seq: int, at: int, ready: bool) -> StoredRun:
    """Return a run that was just created from a row of `CREATE_COLUMNS`, with the database's own time of creation."""
    values = list(run.field_values())
    created_at = at // 1_000_000
    values[_EXPIRES_AT] += created_at - values[_CREATED_AT]
    values[_CREATED_AT] = created_at
    new = StoredRun.__new__(StoredRun)
    new.__setstate__((*values, *_stored_at_creation((*row, seq, at, ready, *_AT_CREATION))))
    return new


_PLACE: Final = {name: place for place, name in enumerate((*FIELDS, "extra"))}
_CREATED_AT: Final = _PLACE["created_at"]
_EXPIRES_AT: Final = _PLACE["expires_at"]
_CLAIMED: Final = _DEFAULT_RUN.field_values()


def _arrange() -> itemgetter[Any]:
    """Return what picks the values of a claimed run from its row, what every claim has, and the defaults."""
    known = (*CLAIMED_COLUMNS, "status", "event", "source", "claimable")
    place = {name: len(known) + place for name, place in _PLACE.items()}
    place |= {name: place for place, name in enumerate(known)}  # of two of one name the last, which was converted
    return itemgetter(*(place[name] for name in (*_PLACE, *StoredRun.STORE_FIELDS)))


_arranged: Final = _arrange()
_AT_CREATION: Final = tuple(VALUES_AT_CREATION.values())
_stored_at_creation: Final = getter(
    (*CREATE_COLUMNS, "seq", "changed_at_us", "claimable", *VALUES_AT_CREATION), *StoredRun.STORE_FIELDS
)


def decode_entry(row: Row) -> Entry:
    """Return the entry of a row: run id, version, event, source, target, at, actor, detail, cursor."""
    run_id, version, event, source, target, at, actor, detail, cursor = row
    told: JsonObject | None = None if detail is None else json.loads(detail)
    gone = None if source is None else _STATUS[source]
    return Entry(run_id, version, _EVENT[event], gone, _STATUS[target], at, actor, told, str(cursor))
