"""The message of a failing assertion: what was found, what was allowed, the history, and the lanes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from runstate.clock import format_duration
from runstate.diagram import RunPosition, draw
from runstate.lifecycle import RUN_LIFECYCLE, Basis, Lifecycle, RunEvent, RunStatus
from runstate.run.validators import YEAR_10000
from runstate.store import Entry, Store, StoredRun
from runstate.testing._diff import read_fields
from runstate.testing.factories import TrackedRun

__all__ = [
    "assertion_error",
    "entries_of",
    "format_entry",
    "format_events",
    "format_name",
    "format_value",
    "ordinal",
]

_WIDTH: Final = 100  # characters, which a terminal and a page of a CI both show
_STAMPED: Final = ("created_at", "started_at", "cancelled_at", "failed_at", "completed_at", "expires_at")
_LABEL: Final = 11


def entries_of(run: object, store: Store | None = None) -> tuple[Entry, ...]:
    """Return the history of a run from its store, or from the run itself if `a_run` made it; else ()."""
    if isinstance(run, TrackedRun):
        return run.entries
    return tuple(store.history(run.id)) if store is not None and isinstance(run, StoredRun) else ()


def assertion_error(
    problem: str,
    run: object,
    found: Iterable[str],
    *,
    refused_in: RunStatus | None = None,
    event: RunEvent | None = None,
    store: Store | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> AssertionError:
    """Return the `AssertionError` of a failed assertion, with the findings, the history and the lanes.

    `refused_in` is the status of the run before the event, if there was one. The message has what was allowed there.
    """
    fields = read_fields(run)
    lines = [problem, *_lines("found", found)]
    status = _status_or_none(fields["status"])
    if (shown := refused_in or status) is not None:
        allowed = ", ".join(lifecycle.allowed_events(shown)) or f"nothing, {shown} is terminal"
        lines.append(_line("allowed", allowed if shown is status else f"in {shown}: {allowed}"))
        path = _path_to(lifecycle, shown, event) if event is not None else None
        if path is not None and len(path) > 1:
            lines.append(_line("way there", " -> ".join(path)))
    entries = entries_of(run, store)
    lines += _lines("history", (format_entry(entry, entries[0].at_us) for entry in entries))
    if status is not None:
        lines += ["", *_lanes(fields, status, lifecycle)]
    return AssertionError("\n".join(lines))


def _path_to(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> tuple[RunEvent, ...] | None:
    """Return the shortest path to an event, by documented transitions if possible: a cancel is no way to complete."""
    return lifecycle.filter(Basis.DOCUMENTED).path_to_event(status, event) or lifecycle.path_to_event(status, event)


def _status_or_none(status: str) -> RunStatus | None:
    return RunStatus(status) if status in tuple(RunStatus) else None


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _lines(label: str, texts: Iterable[str]) -> list[str]:
    return [_line("" if number else label, text) for number, text in enumerate(texts)]


def format_entry(entry: Entry, since_us: int) -> str:
    """Return an entry as a line: the event, its target, the time since `since_us` (Unix microseconds), the actor."""
    event = "created" if entry.event is None else entry.event
    by = f", by {entry.actor}" if entry.actor else ""
    return f"{event} -> {entry.target} (+{format_duration(entry.at_us - since_us)}{by})"


def _lanes(fields: Mapping[str, Any], status: RunStatus, lifecycle: Lifecycle) -> list[str]:
    stamps = {name: _seconds(fields.get(name)) for name in _STAMPED}
    times = {name: time for name, time in stamps.items() if time is not None}
    run_id = fields.get("id")
    position = RunPosition(status, times, run_id if isinstance(run_id, str) else None)
    return [f"  {line}".rstrip() for line in draw(lifecycle, "lanes", position, width=_WIDTH).splitlines()]


def _seconds(time: object) -> int | None:
    """Return a stamp in Unix seconds, also from a `datetime`; None if it cannot be drawn."""
    seconds = time.timestamp() if isinstance(time, datetime) else time
    # Milliseconds, for example, are among the findings; as a time of day they would mislead.
    return int(seconds) if isinstance(seconds, int | float) and 0 <= seconds < YEAR_10000 else None


def format_name(fields: Mapping[str, Any]) -> str:
    """Return how messages name a run, from its fields."""
    return f"run {fields['id']}" if fields.get("id") else "the run"


def format_events(events: Collection[str]) -> str:
    """Return events as a list in words, in the order of `RunEvent`."""
    return ", ".join(sorted(events, key=[*RunEvent, *events].index)) or "nothing"


def ordinal(place: int) -> str:
    """Return a place as an ordinal number."""
    return {1: "first", 2: "second", 3: "third"}.get(place, f"{place}th")


def format_value(value: object) -> str:
    """Return a value as text, None as null."""
    return "null" if value is None else str(value)
