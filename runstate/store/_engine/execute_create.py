"""The execution of creates: most runs are inserted by one statement; conflicts are resolved one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from runstate.lifecycle.errors import RunstateError
from runstate.run.errors import FieldError, InvalidRun
from runstate.store._engine.commands import CreateRuns, NewRunRow
from runstate.store._sql.columns import COPIED_COLUMNS, CREATE_COLUMNS, RUN_COLUMNS, getter, position
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import Row, decode_run
from runstate.store._types import StoredRun
from runstate.store.errors import IdempotencyKeyReused, StoreError, StoreUnavailable, ThreadBusy

__all__ = ["create_needs_transaction", "execute_create", "first_row"]


_ID: Final = position(CREATE_COLUMNS, "id")
_READY: Final = position(CREATE_COLUMNS, "ready")
_FOUND_ID: Final = position(RUN_COLUMNS, "id")
_COMPARED: Final = tuple(name for name in StoredRun.STORE_FIELDS if name in COPIED_COLUMNS and name != "actor")
_compared: Final = getter(CREATE_COLUMNS, *_COMPARED)


def create_needs_transaction(create: CreateRuns[Any]) -> bool:
    """Return whether a create needs more than one statement that writes.

    Settings are written before their run. If the key belongs to another run, they are deleted again.
    """
    return len(create.rows) > 1 or any(
        wanted.thread_policy is not None or (wanted.key is not None and wanted.config is not None)
        for wanted in create.rows
    )


def execute_create(session: Connection, creates: Sequence[CreateRuns[Any]]) -> None:
    """Create the runs of several commands, and set the result of each."""
    threads = {
        wanted.run.thread_id for command in creates for wanted in command.rows if wanted.thread_policy is not None
    }
    hold_threads = session.statements.dialect.hold_threads
    if threads and hold_threads:
        session.execute(hold_threads, {"threads": sorted(threads)})  # one order in all transactions avoids deadlocks
    ordinary = [wanted for command in creates for wanted in command.rows if wanted.thread_policy != "queue"]
    made = _insert(session, ordinary)
    for command in creates:
        try:
            command.set_result([_taken(made, wanted) or _existing_for(session, wanted) for wanted in command.rows])
        except StoreError:
            raise  # the transaction may have failed, and with it the other commands
        except RunstateError as error:
            if len(command.rows) > 1:
                raise  # all or none: the transaction is rolled back, and the other commands are repeated
            command.set_exception(error)


def _taken(made: dict[str, Row], wanted: NewRunRow) -> Row | None:
    """Return the inserted row for a new run, once: a second new run with the same id was not inserted."""
    return None if wanted.thread_policy == "queue" else made.pop(wanted.run.id, None)


def _insert(session: Connection, wanted: Sequence[NewRunRow]) -> dict[str, Row]:
    """Insert the runs without a conflict, of several with one id the first. Return (seq, at, ready) by id.

    Of several runs for a thread that may have one live run, only the first is inserted.
    """
    if not wanted:
        return {}
    firsts: dict[str, Row] = {}
    threads: set[str] = set()
    for each in wanted:
        if each.thread_policy is not None:
            if each.run.thread_id in threads:
                continue
            threads.add(each.run.thread_id)
        firsts.setdefault(each.run.id, each.row)
    values = list(firsts.values())
    ready = {row[_ID]: row[_READY] == 1 for row in values}
    return {run_id: (seq, at, ready[run_id]) for run_id, seq, at in session.insert_runs(values)}


def _existing_for(session: Connection, wanted: NewRunRow) -> Row:
    """Return the row for a run that was not inserted at first: inserted now, or that of the same request before."""
    if wanted.thread_policy == "queue":
        row = _enqueue_behind(session, wanted)
        if row is not None:
            return row
    row = _by_key(session, wanted)
    if row is not None:
        if row[_FOUND_ID] != wanted.run.id:
            _drop_config(session, wanted)
        return _same_request(wanted, row)
    row = first_row(session.execute(session.statements.by_id, {"id": wanted.run.id}))
    if row is not None:
        if wanted.key is None and _differences(wanted, decode_run(row)) == []:
            return row  # the same request, whose reply was lost
        keyed = _by_key(session, wanted)  # it may have been committed between the two queries
        if keyed is not None:
            return _same_request(wanted, keyed)
        raise InvalidRun([FieldError("id", f"is taken: there is a run {wanted.run.id} already")])
    head = first_row(session.execute(session.statements.blocking_run, {"thread": wanted.run.thread_id}))
    if head is None and wanted.thread_policy == "reject":  # it stood behind one of its batch that was not inserted
        made = _insert(session, [wanted])
        if made:
            return made[wanted.run.id]
    _drop_config(session, wanted)
    if head is None or wanted.thread_policy == "queue":
        raise StoreUnavailable(f"run {wanted.run.id} conflicts with another that was being created; try again")
    raise ThreadBusy(wanted.run.thread_id, head[0])


def _by_key(session: Connection, wanted: NewRunRow) -> Row | None:
    if wanted.key is None:
        return None
    return first_row(session.execute(session.statements.by_key, {"key": wanted.key}))


def _enqueue_behind(session: Connection, wanted: NewRunRow) -> Row | None:
    """Insert a run as the only live one of its thread, or behind the existing one. The thread is locked."""
    # Query first: a transaction that ends the existing run waits for this lock, and an insert would wait for its row.
    if not session.execute(session.statements.blocking_run, {"thread": wanted.run.thread_id}):
        found = _insert(session, [wanted])
        if found:
            return found[wanted.run.id]
    behind = list(wanted.row)
    behind[_READY] = 0
    return _insert(session, [NewRunRow(wanted.run, behind)]).get(wanted.run.id)


def _drop_config(session: Connection, wanted: NewRunRow) -> None:
    if wanted.config is not None:
        session.execute(session.statements.drop_config, {"id": wanted.run.id})


def _differences(wanted: NewRunRow, run: StoredRun) -> list[str]:
    """Return the names of the values that differ between a new run and an existing one."""
    before, now = run.to_dict(), wanted.run.to_dict()
    changing = {"status", "required_action", "last_error", "expires_at", "started_at", "cancelled_at", "failed_at"}
    changing |= {"completed_at", "incomplete_details", "usage", "created_at", "id"}
    different = [name for name in now if name not in changing and now[name] != before[name]]
    asked = dict(zip(_COMPARED, _compared(wanted.row), strict=True))
    return different + [name for name, value in asked.items() if value != getattr(run, name)]


def _same_request(wanted: NewRunRow, row: Row) -> Row:
    run = decode_run(row)
    different = _differences(wanted, run)
    if different:
        raise IdempotencyKeyReused(wanted.key or "", run.id, different)
    return row


def first_row(found: Sequence[Row]) -> Row | None:
    """Return the first row, or None."""
    return found[0] if found else None
