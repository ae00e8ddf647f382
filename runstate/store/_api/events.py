"""The methods of a store for the events of handlers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import attrs

from runstate.run import validators
from runstate.run.values import raise_if_invalid
from runstate.store._api.queries import seq_of
from runstate.store._engine.commands import InTransaction
from runstate.store._engine.row_by_row import require_refused_row
from runstate.store._engine.transport import StoreBase
from runstate.store._notifier import Change
from runstate.store._sql.connection import Connection
from runstate.store._sql.events import EVENT_COLUMNS
from runstate.store._sql.rows import Row
from runstate.store._types import Event, StoredRun
from runstate.store._worker_types import Lease
from runstate.store.errors import StoreError

__all__ = ["EventMixin", "EventRow", "decode_events", "position_errors", "read_events", "save_events_command"]

_NUMBER: Final = validators.integer(least=0)
_LIMIT: Final = validators.integer(least=1)
_AGE: Final = validators.number(0, validators.YEAR_10000)
_MOST: Final = 1000  # rows per page


@attrs.frozen(eq=False)
class EventRow:
    """Events of a run that are written together, as one row."""

    lease: Lease
    run: StoredRun
    number: int
    """The number of the first of them."""
    texts: Sequence[str]
    """Each as JSON."""

    @property
    def data(self) -> str:
        """All of them as one JSON list."""
        return f"[{','.join(self.texts)}]"


def save_events_command(rows: Sequence[EventRow]) -> InTransaction[set[EventRow]]:
    """Return the command that adds rows of events. Its result is those that are kept."""

    def perform(session: Connection) -> set[EventRow]:
        if not session.row_by_row:
            return _save(session, rows)
        kept: set[EventRow] = set()  # the database has refused one of them
        for row in rows:
            try:
                with session.savepoint():
                    kept |= _save(session, [row])
            except StoreError as error:
                require_refused_row(session, error)
        return kept

    return InTransaction(perform, change=Change.EVENT, one_statement=True)


def _save(session: Connection, rows: Sequence[EventRow]) -> set[EventRow]:
    values: list[Row] = [
        (row.run.seq, row.run.version, row.run.attempt, row.lease.token, row.number, len(row.texts), row.data)
        for row in rows
    ]
    found = session.execute(session.statements.save_events, session.bind_rows(EVENT_COLUMNS, values))
    added = {tuple(each) for each in found}
    # A first request, whose reply was lost, may have added the others.
    return {row for row in rows if (row.run.seq, row.number, row.run.attempt) in added or _is_kept(session, row)}


def _is_kept(session: Connection, row: EventRow) -> bool:
    found = session.execute(session.statements.event_row, {"run": row.run.seq, "number": row.number})
    return [(row.run.attempt, row.data)] == [tuple(each) for each in found]


def position_errors(run_id: object, after: object) -> validators.FieldErrors:
    """Return the errors of the id of a run, and of the number of an event, which is 0 before the first."""
    return validators.identifier("run_id", run_id) + _NUMBER("after", after)


def decode_events(number: int, attempt: int, data: str, at_us: int) -> list[Event]:
    """Return the events of a row."""
    return [Event(number + place, attempt, each, at_us) for place, each in enumerate(json.loads(data))]


def read_events(session: Connection, seq: int, after: int, limit: int = _MOST) -> list[Event]:
    """Return the next events of a run after a number, of at most `limit` rows."""
    params = {"run": seq, "after": after, "limit": limit}
    rows: Sequence[Any] = session.execute(session.statements.events_after, params)
    return [event for row in rows for event in decode_events(*row) if event.number > after]


class EventMixin(StoreBase):
    """The methods of a store for events."""

    def events_page(self, run_id: str, after: int = 0, *, limit: int = _MOST) -> tuple[Event, ...]:
        """Return the next events that the handler of a run has emitted, after a number; empty if there are no more yet.

        A page has the events of at most `limit` writes. `events` follows them as they are written. Raises
        `RunNotFound`, and `InvalidRun` for wrong arguments.
        """
        raise_if_invalid(position_errors(run_id, after) + _LIMIT("limit", limit))
        return self._transport.read(lambda session: tuple(read_events(session, seq_of(session, run_id), after, limit)))

    def last_event_number(self, run: StoredRun) -> int:
        """Return the number of the last event of a run; 0 if there is none."""

        def look(session: Connection) -> int:
            found: Sequence[Any] = session.execute(session.statements.last_event, {"run": run.seq})
            return int(found[0][0]) if found else 0

        return self._transport.read_for_worker(look)

    def prune_events(self, older_than_s: float, *, limit: int = 1000, dry_run: bool = False) -> int:
        """Delete the events of up to `limit` runs that ended more than `older_than_s` seconds ago.

        Return of how many runs. With `dry_run`, delete nothing, and return how many such runs with events there are.
        The runs stay, with their histories and steps. `prune` deletes events with their runs. Raises `InvalidRun` for
        wrong arguments.
        """
        raise_if_invalid(_AGE("older_than_s", older_than_s) + _LIMIT("limit", limit))
        params = {"age": int(older_than_s * 1_000_000)}

        def perform(session: Connection) -> int:
            speak = session.statements
            if dry_run:
                count: int = session.execute(speak.prunable_events, params)[0][0]
                return count
            return len({row[0] for row in session.execute(speak.prune_events, {**params, "limit": limit})})

        return self._in_transaction(perform)
