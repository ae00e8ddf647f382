"""What a failing assertion says: what was found instead, what would have been possible, the history, the lanes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from runstate.clock import span
from runstate.diagram import Standing, draw
from runstate.lifecycle import LAW, RunEvent, RunStatus
from runstate.store import Store
from runstate.stored import Entry, StoredRun
from runstate.testing.building import TrackedRun
from runstate.testing.records import fields_of

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
    problem: str, run: object, found: Iterable[str], *, asked: RunEvent | None = None, store: Store | None = None
) -> AssertionError:
    """Return the `AssertionError` of an assertion that does not hold, with all that helps to see why."""
    fields = fields_of(run)
    lines = [problem, *_lines("found", found)]
    status = _known(fields["status"])
    if status is not None:
        lines.append(_line("allowed", ", ".join(LAW.allowed_events(status)) or f"nothing, {status} is terminal"))
        way = LAW.path_to_event(status, asked) if asked is not None else None
        if way is not None and len(way) > 1:
            lines.append(_line("way there", " -> ".join(way)))
    entries = entries_of(run, store)
    lines += _lines("history", (told_entry(entry, entries[0].at) for entry in entries))
    if status is not None:
        lines += ["", *_lanes(fields, status)]
    return AssertionError("\n".join(lines))


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
    return f"{asked} -> {entry.target} (+{span(entry.at - since)}{by})"


def _lanes(fields: Mapping[str, Any], status: RunStatus) -> list[str]:
    stamps = {name: fields.get(name) for name in _STAMPED}
    times = {name: time for name, time in stamps.items() if isinstance(time, int)}
    run_id = fields.get("id")
    standing = Standing(status, times, run_id if isinstance(run_id, str) else None)
    return [f"  {line}".rstrip() for line in draw(LAW, "lanes", standing, width=_WIDTH).splitlines()]
