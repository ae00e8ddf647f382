"""What the triggers of both dialects are made of besides the conditions: entries, promotions, sentences."""

from __future__ import annotations

from typing import Final

from runstate.lifecycle import INITIAL_STATUS
from runstate.store._sql.schema import ENDED, occupies_thread

__all__ = [
    "BUSY",
    "CLOSED",
    "EMPTIED",
    "FIELDS",
    "HISTORY",
    "LEASED",
    "NEW_ENDED",
    "NEW_ENTRY",
    "PATH",
    "REOPENED",
    "REPLACED",
    "SETTINGS",
    "TAKEN",
    "is_busy",
    "promote",
]

FIELDS: Final = "(run, version, event, source, target, at, actor, detail)"
NEW_ENTRY: Final = "NEW.seq, NEW.version, NEW.event, NEW.source, NEW.status, NEW.at, NEW.actor, NEW.detail"
HISTORY: Final = "the history is written by the database alone, and never changed"
SETTINGS: Final = "what a run was created with never changes"
TAKEN: Final = "a run is taken over only from a worker whose lease has been closed"
REPLACED: Final = "a run that is there is never replaced"
BUSY: Final = "the thread has another live run, and this one waits behind it"
CLOSED: Final = "a lease that was closed stays closed"
PATH: Final = "the search_path must not name pg_catalog, which comes first by itself"
LEASED: Final = "a lease is kept while a run belongs to it"


def is_busy(row: str, table: str = "runstate_run") -> str:
    """Return the condition that the thread of a row has a live run that is to be its only one."""
    return f"EXISTS (SELECT 1 FROM {table} WHERE thread_id = {row}.thread_id AND {occupies_thread()})"


def promote(row: str, table: str = "runstate_run", skip: str = "") -> str:
    """Return the statement that lets the next run of an exclusive thread be claimed, as one of them has ended.

    By a clock that went back it may have ended before the next was born. PostgreSQL's `skip` passes by a run that
    somebody else is just ending: they wait for the thread, and promote another.
    """
    return f"""\
UPDATE {table} SET ready_at = CASE WHEN at > {row}.at THEN at ELSE {row}.at END WHERE seq = (
        SELECT seq FROM {table}
        WHERE thread_id = {row}.thread_id AND exclusive = 'queue' AND ready_at IS NULL AND status = '{INITIAL_STATUS}'
            AND (not_before IS NULL OR not_before <= {row}.at)
        ORDER BY seq LIMIT 1{skip})
        AND NOT {is_busy(row, table)}"""


NEW_ENDED: Final = f"NEW.exclusive IS NOT NULL AND NEW.status IN ({ENDED})"
"""The condition that a run which its thread waited for has ended."""

EMPTIED: Final = "runs are pruned when they have ended, and nothing is emptied"
REOPENED: Final = "NEW.token <> OLD.token OR NEW.closed < OLD.closed"
