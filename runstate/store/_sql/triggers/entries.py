"""What the triggers of both dialects are made of besides the conditions: entries and sentences."""

from __future__ import annotations

from typing import Final

from runstate.store._sql.literals import ENDED

__all__ = [
    "ATTEMPTS",
    "BUSY",
    "CLOSED",
    "EMPTIED",
    "FIELDS",
    "HISTORY",
    "LEASED",
    "MIGRATIONS",
    "NEW_ENDED",
    "NEW_ENTRY",
    "PRIVATE",
    "REOPENED",
    "REPLACED",
    "SETTINGS",
    "TAKEN",
]

FIELDS: Final = "(run, version, event, source, target, at_us, actor, detail)"
NEW_ENTRY: Final = "NEW.seq, NEW.version, NEW.event, NEW.source, NEW.status, NEW.changed_at_us, NEW.actor, NEW.detail"
HISTORY: Final = "the history is written by the database alone, and never changed"
ATTEMPTS: Final = "the attempts of a run are recorded once, and never changed"
SETTINGS: Final = "what a run was created with never changes"
TAKEN: Final = "a run is taken over only from a worker whose lease has been closed"
REPLACED: Final = "a run that is there is never replaced"
BUSY: Final = "the thread has another live run, and this one waits behind it"
CLOSED: Final = "a lease that was closed stays closed"
LEASED: Final = "a lease is kept while a run belongs to it"


NEW_ENDED: Final = f"NEW.thread_policy IS NOT NULL AND NEW.status IN ({ENDED})"
"""The condition that a run which its thread waited for has ended."""

EMPTIED: Final = "runs are pruned when they have ended, and nothing is emptied"
PRIVATE: Final = "the tables beside the runs are written by the database alone"
MIGRATIONS: Final = "migrations are recorded by `runstate migrate` alone"
REOPENED: Final = "NEW.token <> OLD.token OR NEW.closed < OLD.closed"
