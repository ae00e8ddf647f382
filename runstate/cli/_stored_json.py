"""Stored runs and entries as JSON: the run as in the API, and beside it the data of the store."""

from __future__ import annotations

from typing import Any

import attrs

from runstate.store import Attempt, Entry, Event, PausedQueue, StepRecord, StoredRun

__all__ = ["attempt_to_json", "entry_to_json", "event_to_json", "pause_to_json", "run_to_json", "step_to_json"]


def run_to_json(run: StoredRun) -> dict[str, Any]:
    """Return a run with the data of the store. `check` and `diagram` can read it."""
    return {
        "run": run.to_dict(),
        "version": run.version,
        "event": None if run.event is None else run.event.value,
        "changed_at_us": run.changed_at_us,
        "actor": run.actor,
        "queue": run.queue,
        "priority": run.priority,
        "attempt": run.attempt,
        "lost": run.lost,
        "failed": run.failed,
        "claimable": run.claimable,
        "repeats": run.repeats,
    }


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return an entry. Its times are Unix microseconds."""
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


def attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt without an outcome. Its times are Unix microseconds."""
    return attrs.asdict(attempt)


def pause_to_json(pause: PausedQueue) -> dict[str, Any]:
    """Return a pause of a queue. Its times are Unix microseconds."""
    return attrs.asdict(pause)


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an output event. Its time is in Unix microseconds."""
    return {"number": event.number, "attempt": event.attempt, "at_us": event.at_us, "data": event.data}


def step_to_json(step: StepRecord) -> dict[str, Any]:
    """Return a step of a handler. Its times are Unix microseconds."""
    return {
        "name": step.name,
        "key": step.key,
        "number": step.number,
        "attempt": step.attempt,
        "result": step.result,
        "usage": {
            "prompt_tokens": step.usage.prompt_tokens,
            "completion_tokens": step.usage.completion_tokens,
            "total_tokens": step.usage.total_tokens,
        },
        "began_at_us": step.began_at_us,
        "ended_at_us": step.ended_at_us,
    }
