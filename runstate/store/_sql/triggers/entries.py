"""What the triggers of both dialects are made of besides the conditions: entries and sentences."""

from __future__ import annotations

from typing import Final

from runstate.store._sql.literals import ENDED

__all__ = [
    "ATTEMPTS",
    "BUSY",
    "CLOSED",
    "EMPTIED",
    "ENTRY_COLUMNS",
    "FIELDS",
    "FIELDS_OF_NEW",
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
    "UNRECORDED",
]

_FIELDS: Final = {
    "run": "seq",
    "version": "version",
    "event": "event",
    "source": "source",
    "target": "status",
    "at_us": "changed_at_us",
    "actor": "actor",
    "detail": "detail",
}
"""The columns of an entry, each with the column of the run that it is a copy of."""
ENTRY_COLUMNS: Final = tuple(_FIELDS.values())
FIELDS: Final = f"({', '.join(_FIELDS)})"
FIELDS_OF_NEW: Final = tuple(f"NEW.{name}" for name in _FIELDS)
"""The columns of a new entry."""
NEW_ENTRY: Final = ", ".join(f"NEW.{column}" for column in ENTRY_COLUMNS)
"""The entry of the last transition of a run."""
HISTORY: Final = "the history is written by the database alone, and never changed"
ATTEMPTS: Final = "the attempts of a run are recorded once, and never changed"
SETTINGS: Final = "what a run was created with never changes"
TAKEN: Final = "a run is taken over only from a worker whose lease has been closed"
UNRECORDED: Final = "the last transition of the run has no entry in the history, so no other may follow"
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
