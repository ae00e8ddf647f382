"""The columns of rows that go to the database and come from it, each list in the order of its values.

A list stands here once. Statements are made of it, and what reads a row takes its values by these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import attrs

__all__ = [
    "CLAIMED_COLUMNS",
    "COPIED_COLUMNS",
    "CREATE_COLUMNS",
    "FIXED_COLUMNS",
    "MOVE_COLUMNS",
    "PAYLOAD",
    "POSITION_COLUMNS",
    "RUN_COLUMNS",
    "SETTLE_COLUMNS",
    "VALUES_AT_CREATION",
    "Column",
    "columns",
    "getter",
    "position",
]


@attrs.frozen
class Column:
    """A column of the values that a statement is given: its name and its type in PostgreSQL."""

    name: str
    kind: str = "text"


def columns(*params: str) -> tuple[Column, ...]:
    """Return columns written as `name` or `name:type`."""
    return tuple(Column(*column.split(":")) for column in params)


def position(columns: Sequence[str | Column], name: str) -> int:
    """Return where a column's value stands in a row."""
    return [column if isinstance(column, str) else column.name for column in columns].index(name)


def getter(columns: Sequence[str | Column], *names: str) -> itemgetter[Any]:
    """Return the function that takes the values of these columns from a row, which costs one call for all of them."""
    return itemgetter(*(position(columns, name) for name in names))


# --- what a statement gives back --------------------------------------------------------------------------------------

RUN_COLUMNS: Final = (
    *("seq", "id", "created_at", "thread_id", "assistant_id", "model", "status"),
    *("version", "event", "source", "changed_at_us", "actor"),
    *("queue", "priority", "attempt", "lost", "failed", "claimable", "repeats"),
    *("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at", "worker"),
    *("required_action", "last_error", "incomplete_details", "usage"),
    "config",
)
"""Of a whole run."""

CLAIMED_COLUMNS: Final = (
    *("seq", "version", "id", "created_at", "thread_id", "assistant_id", "model", "status", "changed_at_us"),
    *("queue", "priority", "attempt", "lost", "failed", "expires_at", "started_at", "actor", "repeats"),
    "config",
)
"""Of a run that was just claimed: it is in progress, and has no stamp but its start."""

# --- what a statement is given ----------------------------------------------------------------------------------------

CREATE_COLUMNS: Final = columns(
    *("id", "thread_id", "assistant_id", "model", "expires_in:bigint", "queue", "priority:bigint"),
    *(
        "not_before_us:bigint",
        "thread_policy",
        "idempotency_key",
        "repeats",
        "ready:bigint",
        "actor",
        "config",
        "trace_context",
    ),
)
_CONVERTED: Final = ("expires_in", "ready", "config", "trace_context")
POSITION_COLUMNS: Final = columns("seq:bigint", "after:bigint")
"""A run, and the number of the last event or the version of the last entry that a reader of it has."""
COPIED_COLUMNS: Final = tuple(column.name for column in CREATE_COLUMNS if column.name not in _CONVERTED)
"""Those that a create writes into the run table as they are."""
FIXED_COLUMNS: Final = (
    *("seq", "id", "thread_id", "assistant_id", "model", "created_at"),
    *("queue", "priority", "not_before_us", "thread_policy", "idempotency_key", "repeats"),
)
"""Those of the run table that never change."""
VALUES_AT_CREATION: Final[Mapping[str, Any]] = {
    "version": 1,
    "event": None,
    "source": None,
    "attempt": 0,
    "lost": 0,
    "failed": 0,
}
"""What a new run has in the other columns that `StoredRun` shows."""
PAYLOAD: Final = ("detail", "required_action", "last_error", "incomplete_details")
"""What few moves carry."""
MOVE_COLUMNS: Final = columns("key", "version:bigint", "actor", "usage", *PAYLOAD)
SETTLE_COLUMNS: Final = columns("key:bigint", "usage", "version:bigint", "attempt:bigint")
