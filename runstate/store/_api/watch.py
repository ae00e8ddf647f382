"""Following entries as they are committed, of one run or of all runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from threading import Event
from typing import Any, Final

from runstate.lifecycle import RUN_LIFECYCLE
from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.values import raise_if_invalid
from runstate.store._api.queries import QueryMixin
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._types import Entry, StoredRun

__all__ = ["start_cursor", "watch", "watch_async"]

_LOOK_S: Final = 0.5  # between two polls without a notification


class _Cursor:
    """The position of a reader, in the history of one run or of all runs."""

    def __init__(self, run_id: str | None, after: int | str | None) -> None:
        self.run_id: Final = run_id
        self.version: int = 0
        self.cursor: str = ""
        if run_id is None:
            if after is not None and not isinstance(after, str):
                raise_if_invalid(
                    [FieldError("after", f"expected the cursor of an entry, got {validators.preview(after)}")]
                )
            self.cursor = str(after or "")
        else:
            raise_if_invalid(validators.identifier("run_id", run_id))
            if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
                raise_if_invalid(
                    [FieldError("after", f"expected the version of an entry, got {validators.preview(after)}")]
                )
            self.version = int(after or 0)

    def look(self, reading: QueryMixin) -> Any:
        """Return the next entries; an awaitable of them if `reading` is async."""
        if self.run_id is None:
            return reading.entries(self.cursor)
        return reading.history(self.run_id, after_version=self.version)

    def passed(self, entry: Entry) -> None:
        self.version, self.cursor = entry.version, entry.cursor

    def is_behind(self, run: StoredRun) -> bool:
        """Return whether the run had ended at this position, so that there are no more entries."""
        return run.is_terminal and run.version <= self.version

    def is_end(self, entry: Entry) -> bool:
        return self.run_id is not None and RUN_LIFECYCLE.is_terminal(entry.target)


def start_cursor(run_id: str | None, after: int | str | None, latest: Callable[[], str]) -> _Cursor:
    """Return the position to begin at: by default the creation of the run, or the last entry of all runs."""
    place = _Cursor(run_id, after)
    if run_id is None and after is None:
        place.cursor = latest()
    return place


def watch(reading: QueryMixin, bell: LocalNotifier, place: _Cursor) -> Iterator[Entry]:
    """Yield entries after a position as they are committed; of one run until it has ended."""
    rung = Event()

    def heard(hint: Change) -> None:
        if hint is not Change.EVENT:
            rung.set()

    with bell.subscribe(heard):
        while True:
            rung.clear()
            entries: Sequence[Entry] = place.look(reading)
            for entry in entries:
                place.passed(entry)
                yield entry
                if place.is_end(entry):
                    return
            if not entries:
                if place.run_id is not None and place.is_behind(reading.get(place.run_id)):
                    return
                rung.wait(_LOOK_S)


async def watch_async(reading: QueryMixin, bell: LocalNotifier, place: _Cursor) -> AsyncIterator[Entry]:
    """Yield entries like `watch`, for coroutines."""
    loop, rung = asyncio.get_running_loop(), asyncio.Event()

    def heard(hint: Change) -> None:
        if hint is Change.EVENT:
            return
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(rung.set)

    with bell.subscribe(heard):
        while True:
            rung.clear()
            entries: Sequence[Entry] = await place.look(reading)
            for entry in entries:
                place.passed(entry)
                yield entry
                if place.is_end(entry):
                    return
            if not entries:
                if place.run_id is not None:
                    run: Any = reading.get(place.run_id)  # an awaitable, because `reading` is async
                    if place.is_behind(await run):
                        return
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await rung.wait()
                except TimeoutError:
                    continue
