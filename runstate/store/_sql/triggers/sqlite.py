"""SQLite's triggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from runstate.store._sql.columns import FIXED_COLUMNS
from runstate.store._sql.dialect import SQLITE
from runstate.store._sql.triggers.conditions import guards, transition_condition
from runstate.store._sql.triggers.entries import (
    ATTEMPTS,
    BUSY,
    CLOSED,
    FIELDS,
    HISTORY,
    LEASED,
    MIGRATIONS,
    NEW_ENDED,
    NEW_ENTRY,
    REOPENED,
    REPLACED,
    SETTINGS,
    TAKEN,
)

__all__ = ["sqlite_guards"]

_BUSY: Final = SQLITE.lookups.is_busy("NEW.thread_id")
# By a clock that went back a run may have ended before the next was born.
_PROMOTE: Final = (
    "UPDATE runstate_run SET claimable_at_us = CASE WHEN changed_at_us > NEW.changed_at_us THEN changed_at_us"
    " ELSE NEW.changed_at_us END"
    f" WHERE seq = ({SQLITE.lookups.next_of_thread('NEW.thread_id', 'NEW.changed_at_us')}) AND NOT {_BUSY}"
)
"""The statement that lets the next run of a thread be claimed, as the one before it has ended."""


def sqlite_guards() -> Iterator[str]:
    """Yield the triggers that make SQLite hold the law."""

    def refuse(sentence: str) -> str:
        return f"BEGIN SELECT raise(ABORT, 'runstate: {sentence}'); END"

    def guard_by(name: str, when: str, body: str) -> str:
        return f"CREATE TRIGGER runstate_{name} {when} {body}"

    for guard in guards(SQLITE):
        if guard.on != "UPDATE":
            when = f"BEFORE {guard.on} ON runstate_run WHEN NOT coalesce({guard.holds}, 0)"
            yield guard_by(f"guard_{guard.name}", when, refuse(guard.sentence))
    entry = f"INSERT INTO runstate_history {FIELDS}"
    yield guard_by("born", "AFTER INSERT ON runstate_run", f"BEGIN {entry} VALUES ({NEW_ENTRY}); END")
    yield from _moving(guard_by)
    identity = next(guard for guard in guards(SQLITE) if guard.name == "identity")
    of = f"BEFORE UPDATE OF {', '.join(FIXED_COLUMNS)} ON runstate_run WHEN NOT ({identity.holds})"
    yield guard_by("guard_identity", of, refuse(identity.sentence))
    yield guard_by("ended", f"AFTER UPDATE OF status ON runstate_run WHEN {NEW_ENDED}", f"BEGIN {_PROMOTE}; END")
    yield from _beside(guard_by, refuse)


def _moving(guard_by: Callable[[str, str, str], str]) -> Iterator[str]:
    """Yield the triggers of an update: of a move, which writes its entry, and of what changes beside the moves.

    One for all guards, because entering a trigger costs more than what it compares; and after the update, for before
    it SQLite would have to find the row again. What never changes is guarded where a statement writes to it, and
    nowhere else; but for the number of a run, which has more names than SQLite's triggers know. The entry is one of
    VALUES: as the table has a trigger of its own, the row of a SELECT would be put into a temporary table first, at
    twice the cost of all else that an entry takes.
    """
    identity, *held = [guard for guard in guards(SQLITE) if guard.on == "UPDATE"]
    which = f"WHEN NEW.seq <> OLD.seq THEN raise(ABORT, 'runstate: {identity.sentence}') " + " ".join(
        f"WHEN NOT coalesce({guard.holds}, 0) THEN raise(ABORT, 'runstate: {guard.sentence}')" for guard in held
    )
    # It is one of them that does not hold; but if ever none were found, the move must not pass.
    refusal = f"CASE {which} ELSE raise(ABORT, 'runstate: {held[0].sentence}') END"
    check = f"SELECT CASE WHEN NEW.seq = OLD.seq AND {transition_condition()} THEN 0 ELSE {refusal} END;"
    entry = f"INSERT INTO runstate_history {FIELDS} VALUES ({NEW_ENTRY});"
    when = "AFTER UPDATE ON runstate_run WHEN NEW.version"
    yield guard_by("moved", f"{when} <> OLD.version", f"BEGIN {check} {entry} END")
    lapsed = "(SELECT closed FROM runstate_worker_session WHERE token = OLD.worker)"
    taken = f"NEW.worker <> 0 AND NEW.worker <> OLD.worker AND coalesce({lapsed}, 1) = 0"
    kept = f"SELECT CASE {which} WHEN {taken} THEN raise(ABORT, 'runstate: {TAKEN}') END;"
    yield guard_by("kept", f"{when} = OLD.version", f"BEGIN {kept} END")


def _beside(guard_by: Callable[[str, str, str], str], refuse: Callable[[str], str]) -> Iterator[str]:
    """Yield what guards the tables beside the runs."""
    # Deleting a run deletes what stands beside it. Only then may the history lose rows.
    beside = ("history", "checkpoint", "attempt")
    gone = " ".join(f"DELETE FROM runstate_{table} WHERE run = OLD.seq;" for table in beside)
    yield guard_by(
        "deleted",
        "AFTER DELETE ON runstate_run",
        f"BEGIN {gone} DELETE FROM runstate_run_config WHERE id = OLD.id; END",
    )
    # What passes is the entry of a run's own version that is not there yet: the one that the trigger on runs is just
    # writing. (With OR REPLACE a copy of the last entry would get another place among those of all runs.)
    here = "seq = NEW.run AND version = NEW.version"
    there = "run = NEW.run AND version = NEW.version"
    yield guard_by(
        "history_insert",
        f"BEFORE INSERT ON runstate_history WHEN NOT EXISTS (SELECT 1 FROM runstate_run WHERE {here})"
        f" OR EXISTS (SELECT 1 FROM runstate_history WHERE {there})",
        refuse(HISTORY),
    )
    yield guard_by("history_update", "BEFORE UPDATE ON runstate_history", refuse(HISTORY))
    yield guard_by(
        "history_delete",
        "BEFORE DELETE ON runstate_history WHEN EXISTS (SELECT 1 FROM runstate_run WHERE seq = OLD.run)",
        refuse(HISTORY),
    )
    known = "EXISTS (SELECT 1 FROM runstate_run WHERE seq = NEW.run AND NEW.attempt BETWEEN 1 AND attempt)"
    again = "EXISTS (SELECT 1 FROM runstate_attempt WHERE run = NEW.run AND number = NEW.number)"
    yield guard_by("attempt_insert", f"BEFORE INSERT ON runstate_attempt WHEN NOT {known} OR {again}", refuse(ATTEMPTS))
    yield guard_by("attempt_update", "BEFORE UPDATE ON runstate_attempt", refuse(ATTEMPTS))
    yield guard_by(
        "attempt_delete",
        "BEFORE DELETE ON runstate_attempt WHEN EXISTS (SELECT 1 FROM runstate_run WHERE seq = OLD.run)",
        refuse(ATTEMPTS),
    )
    yield from _never_replaced(guard_by, refuse)
    exists = "WHEN EXISTS (SELECT 1 FROM runstate_run WHERE id = {}.id)"
    yield guard_by("config_insert", f"BEFORE INSERT ON runstate_run_config {exists.format('NEW')}", refuse(SETTINGS))
    yield guard_by("config_update", "BEFORE UPDATE ON runstate_run_config", refuse(SETTINGS))
    yield guard_by("config_delete", f"BEFORE DELETE ON runstate_run_config {exists.format('OLD')}", refuse(SETTINGS))
    for event in ("INSERT", "UPDATE", "DELETE"):  # a migration drops the triggers first
        yield guard_by(f"migration_{event.lower()}", f"BEFORE {event} ON runstate_migration", refuse(MIGRATIONS))
    yield guard_by("closed", f"BEFORE UPDATE ON runstate_worker_session WHEN {REOPENED}", refuse(CLOSED))
    belongs = "OLD.token = 0 OR EXISTS (SELECT 1 FROM runstate_run WHERE worker = OLD.token)"
    yield guard_by("leased", f"BEFORE DELETE ON runstate_worker_session WHEN {belongs}", refuse(LEASED))


def _never_replaced(guard_by: Callable[[str, str, str], str], refuse: Callable[[str], str]) -> Iterator[str]:
    """Yield what stops OR REPLACE, with which SQLite deletes what is in the way past every trigger on deletion."""
    in_the_way = (
        "EXISTS (SELECT 1 FROM runstate_run WHERE id = NEW.id OR seq = NEW.seq)"
        " OR (NEW.idempotency_key IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM runstate_run WHERE idempotency_key = NEW.idempotency_key))"
        f" OR (NEW.thread_policy IS NOT NULL AND {_BUSY})"
    )
    # What a statement does about conflicts, its triggers' statements do too, whatever they say themselves. So this one
    # does nothing and lets the unique indexes decide, unless somebody replaces.
    probe = "BEGIN INSERT OR IGNORE INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1); END"
    yield guard_by("guard_replace", f"BEFORE INSERT ON runstate_run WHEN {in_the_way}", probe)
    leased = "NEW.token <> 0 AND EXISTS (SELECT 1 FROM runstate_worker_session WHERE token = NEW.token)"
    yield guard_by("guard_lease", f"BEFORE INSERT ON runstate_worker_session WHEN {leased}", probe)
    yield guard_by("replaced", "AFTER INSERT ON runstate_worker_session WHEN NEW.token = 0", refuse(REPLACED))
    yield guard_by(
        "guard_ready",
        "BEFORE UPDATE OF claimable_at_us ON runstate_run WHEN OLD.claimable_at_us IS NULL"
        f" AND NEW.claimable_at_us IS NOT NULL AND NEW.thread_policy = 'queue' AND {_BUSY}",
        refuse(BUSY),
    )
