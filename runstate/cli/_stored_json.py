"""Stored runs and their entries as JSON for programs: the run as the API has it, and beside it what the store knows."""

from __future__ import annotations

from typing import Any

from runstate.store import Entry, StoredRun

__all__ = ["entry_json", "run_json"]


def run_json(run: StoredRun) -> dict[str, Any]:
    """Return a run with its place in the store. `check` and `diagram` read it as it is."""
    return {
        "run": run.to_dict(),
        "version": run.version,
        "event": None if run.event is None else run.event.value,
        "changed_at_us": run.changed_at_us,
        "actor": run.actor,
        "queue": run.queue,
        "priority": run.priority,
        "attempt": run.attempt,
        "claimable": run.claimable,
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return an entry; its times are Unix microseconds."""
    return {
        "run_id": entry.run_id,
        "version": entry.version,
        "event": None if entry.event is None else entry.event.value,
        "source": None if entry.source is None else entry.source.value,
        "target": entry.target.value,
        "at_us": entry.at_us,
        "actor": entry.actor,
        "detail": entry.detail,
        "cursor": entry.cursor,
    }
