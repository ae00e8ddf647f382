"""What a failing assertion says: what was found instead, what would have been possible, the history, the lanes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from runstate.clock import format_duration
from runstate.diagram import RunPosition, draw
from runstate.lifecycle import RUN_LIFECYCLE, Basis, Lifecycle, RunEvent, RunStatus
from runstate.run.validators import YEAR_10000
from runstate.store import Entry, Store, StoredRun
from runstate.testing._diff import fields_of
from runstate.testing.factories import TrackedRun

__all__ = ["entries_of", "shortfall", "told_entry"]

_WIDTH: Final = 100  # characters: what a terminal and a CI's page both show
_STAMPED: Final = ("created_at", "started_at", "cancelled_at", "failed_at", "completed_at", "expires_at")
_LABEL: Final = 11


def entries_of(run: object, store: Store | None = None) -> tuple[Entry, ...]:
    """Return the history of a run, as far as anybody kept it: its store, or the run itself if `a_run` made it."""
    if isinstance(run, TrackedRun):
        return run.entries
    return tuple(store.history(run.id)) if store is not None and isinstance(run, StoredRun) else ()


def shortfall(
    problem: str,
    run: object,
    found: Iterable[str],
    *,
    source: RunStatus | None = None,
    asked: RunEvent | None = None,
    store: Store | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> AssertionError:
    """Return the `AssertionError` of an assertion that does not hold, with all that helps to see why.

    `source` is where the run stood when it was asked, if it was; what is allowed is told of there.
    """
    fields = fields_of(run)
    lines = [problem, *_lines("found", found)]
    status = _known(fields["status"])
    if (stood := source or status) is not None:
        allowed = ", ".join(lifecycle.allowed_events(stood)) or f"nothing, {stood} is terminal"
        lines.append(_line("allowed", allowed if stood is status else f"in {stood}: {allowed}"))
        way = _way(lifecycle, stood, asked) if asked is not None else None
        if way is not None and len(way) > 1:
            lines.append(_line("way there", " -> ".join(way)))
    entries = entries_of(run, store)
    lines += _lines("history", (told_entry(entry, entries[0].at_us) for entry in entries))
    if status is not None:
        lines += ["", *_lanes(fields, status, lifecycle)]
    return AssertionError("\n".join(lines))


def _way(lifecycle: Lifecycle, status: RunStatus, event: RunEvent) -> tuple[RunEvent, ...] | None:
    """Return the shortest way to an event, by documented moves if they lead there: nobody is to cancel to complete."""
    return lifecycle.filter(Basis.DOCUMENTED).path_to_event(status, event) or lifecycle.path_to_event(status, event)


def _known(status: str) -> RunStatus | None:
    return RunStatus(status) if status in tuple(RunStatus) else None


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _lines(label: str, texts: Iterable[str]) -> list[str]:
    return [_line("" if number else label, text) for number, text in enumerate(texts)]


def told_entry(entry: Entry, since: int) -> str:
    """Return an entry as a line: what was asked, where that led, how long after `since` (microseconds), by whom."""
    asked = "created" if entry.event is None else entry.event
    by = f", by {entry.actor}" if entry.actor else ""
    return f"{asked} -> {entry.target} (+{format_duration(entry.at_us - since)}{by})"


def _lanes(fields: Mapping[str, Any], status: RunStatus, lifecycle: Lifecycle) -> list[str]:
    stamps = {name: _seconds(fields.get(name)) for name in _STAMPED}
    times = {name: time for name, time in stamps.items() if time is not None}
    run_id = fields.get("id")
    position = RunPosition(status, times, run_id if isinstance(run_id, str) else None)
    return [f"  {line}".rstrip() for line in draw(lifecycle, "lanes", position, width=_WIDTH).splitlines()]


def _seconds(time: object) -> int | None:
    """Return a stamp in Unix seconds, however somebody's run keeps it; None where it cannot be drawn."""
    seconds = time.timestamp() if isinstance(time, datetime) else time
    # (Milliseconds, say, are told among what was found; as a time of the day they would mislead.)
    return int(seconds) if isinstance(seconds, int | float) and 0 <= seconds < YEAR_10000 else None
