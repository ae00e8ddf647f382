"""SQLite's triggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from runstate.store._sql.columns import FIXED_COLUMNS
from runstate.store._sql.dialect import SQLITE
from runstate.store._sql.triggers.conditions import (
    CLAIM_COLUMNS,
    GUARDS_OF_CLAIMS,
    RARE_COLUMNS,
    guards,
    not_ahead,
    transition_condition,
)
from runstate.store._sql.triggers.entries import (
    ATTEMPTS,
    BUSY,
    CLOSED,
    ENTRY_COLUMNS,
    FIELDS,
    FIELDS_OF_NEW,
    HISTORY,
    LEASED,
    MIGRATIONS,
    NEW_ENDED,
    NEW_ENTRY,
    REOPENED,
    REPLACED,
    SETTINGS,
    TAKEN,
    UNRECORDED,
)

__all__ = ["sqlite_guards"]

_BUSY: Final = SQLITE.lookups.is_busy("NEW.thread_id")
# By a clock that went back a run may have ended before the next was born.
_PROMOTED: Final = "CASE WHEN changed_at_us > NEW.changed_at_us THEN changed_at_us ELSE NEW.changed_at_us END"
# A time that the next run may not have, by a clock that is far ahead, must not keep this one from ending: a sweep
# promotes the next one then.
_PROMOTE: Final = (
    f"UPDATE runstate_run SET claimable_at_us = {_PROMOTED}"
    f" WHERE seq = ({SQLITE.lookups.next_of_thread('NEW.thread_id', 'NEW.changed_at_us')}) AND NOT {_BUSY}"
    f" AND {not_ahead(SQLITE, _PROMOTED, 'expires_at')}"
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
    # Whatever ends a run clears its deadline, and what starts one leaves it: so a start does not enter this trigger.
    ended = f"AFTER UPDATE OF expires_at ON runstate_run WHEN {NEW_ENDED}"
    yield guard_by("ended", ended, f"BEGIN {_PROMOTE}; END")
    yield from _beside(guard_by, refuse)


# A TEMP trigger may change the row before it is written, while OLD is still the row that the statement found.
_CURRENT: Final = "(SELECT version FROM runstate_run WHERE seq = OLD.seq) = OLD.version"
_UNCLAIMED_SINCE: Final = " AND ".join(f"{column} IS OLD.{column}" for column in ("version", *CLAIM_COLUMNS))
_RECORDED: Final = "EXISTS (SELECT 1 FROM runstate_history WHERE run = OLD.seq AND version = OLD.version)"


def _moving(guard_by: Callable[[str, str, str], str]) -> Iterator[str]:
    """Yield the triggers of an update: the guard of every update, and the entry of a move.

    The guard is a BEFORE trigger, because a TEMP trigger with raise(IGNORE) skips AFTER triggers, and the TEMP triggers
    of a table come first. It contains no statement but SELECT, because a TEMP trigger on a table that it wrote to
    could update runs while it is active, and SQLite enters no trigger twice. It is one trigger for most conditions,
    and they are its WHEN, because entering a trigger and executing a statement costs more than comparing. What changes
    rarely is guarded where a statement writes to it; what never changes there alone, but for the number of a run, which
    has more names than SQLite's triggers know.

    A TEMP trigger can still suppress an entry, which can only be written after the update. The row then has all that
    the entry had. No transition can follow until the entry is there, and no other entry can be inserted.

    The entry is one of VALUES: as the table has a trigger of its own, the row of a SELECT would be put into a temporary
    table first, at twice the cost of all else that an entry takes.
    """
    identity, *held = [guard for guard in guards(SQLITE) if guard.on == "UPDATE"]
    untouched = " AND ".join(f"({guard.holds})" for guard in held if guard.name in GUARDS_OF_CLAIMS)
    lapsed = "(SELECT closed FROM runstate_worker_session WHERE token = OLD.worker)"
    taken = f"(NEW.worker <> 0 AND NEW.worker <> OLD.worker AND coalesce({lapsed}, 1) = 0)"
    current = f"EXISTS (SELECT 1 FROM runstate_run WHERE seq = OLD.seq AND {_UNCLAIMED_SINCE})"
    holds = (
        f"NEW.seq = OLD.seq AND CASE WHEN NEW.version <> OLD.version THEN {_CURRENT} AND {_RECORDED}"
        f" AND {transition_condition(touches_rare=False)} ELSE {current} AND {untouched}"
        f" AND coalesce(NOT {taken}, 1) END"
    )
    sentences = [
        ("NEW.seq <> OLD.seq", identity.sentence),
        *((f"NOT coalesce({guard.holds}, 0)", guard.sentence) for guard in held),
        (taken, TAKEN),
        (f"NOT {_RECORDED}", UNRECORDED),
    ]
    which = " ".join(f"WHEN {fails} THEN raise(ABORT, 'runstate: {sentence}')" for fails, sentence in sentences)
    # It is one of them that does not hold; but if ever none were found, the update must not pass.
    refusal = f"BEGIN SELECT CASE {which} ELSE raise(ABORT, 'runstate: {held[0].sentence}') END; END"
    yield guard_by("guard_update", f"BEFORE UPDATE ON runstate_run WHEN NOT coalesce({holds}, 0)", refusal)
    rare = f"NEW.version <> OLD.version AND NOT coalesce({transition_condition(touches_rare=True)}, 0)"
    of = f"BEFORE UPDATE OF {', '.join(RARE_COLUMNS)} ON runstate_run WHEN {rare}"
    yield guard_by("guard_rare", of, refusal)
    entry = f"INSERT INTO runstate_history {FIELDS} VALUES ({NEW_ENTRY});"
    yield guard_by("moved", "AFTER UPDATE ON runstate_run WHEN NEW.version <> OLD.version", f"BEGIN {entry} END")


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
    # What passes is the last entry of a run, as its row has it, that is not there yet: the one that the trigger on runs
    # is just writing. (With OR REPLACE a copy of the last entry would get another place among those of all runs.)
    same = " AND ".join(f"{column} IS {value}" for column, value in zip(ENTRY_COLUMNS, FIELDS_OF_NEW, strict=True))
    there = "run = NEW.run AND version = NEW.version"
    yield guard_by(
        "history_insert",
        f"BEFORE INSERT ON runstate_history WHEN coalesce((SELECT {same} FROM runstate_run WHERE seq = NEW.run), 0) = 0"
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
    reopened = f"{REOPENED} OR NEW.closed < (SELECT closed FROM runstate_worker_session WHERE token = OLD.token)"
    yield guard_by("closed", f"BEFORE UPDATE ON runstate_worker_session WHEN {reopened}", refuse(CLOSED))
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
