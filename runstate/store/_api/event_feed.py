"""Following the events of runs: one thread of a process reads those of all runs that it follows, for all readers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from threading import Event as Signal
from typing import Any, ClassVar, Final, cast

from runstate.clock import monotonic
from runstate.run.values import raise_if_invalid
from runstate.store._api.events import decode_events, position_errors, read_events
from runstate.store._api.feed import POLL_S, Feed, Read, Tail
from runstate.store._api.queries import seq_of
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._sql.columns import POSITION_COLUMNS
from runstate.store._sql.connection import Connection
from runstate.store._types import Event

__all__ = ["EventFeed", "checked_position", "follow", "follow_async"]

_MOST_ROWS: Final = 5000  # of one read


def checked_position(run_id: str, after: int) -> None:
    """Raise `InvalidRun` unless these are the id of a run and the number of an event, or 0."""
    raise_if_invalid(position_errors(run_id, after))


class _EventTail(Tail[int, Event]):
    """The last events of a run. Their numbers have no gap."""

    def position_of(self, item: Event) -> int:
        return item.number

    def count_up_to(self, position: int) -> int:
        return position - self.base


class EventFeed(Feed[Event]):
    """Reads the new events of the runs that are followed, and wakes their readers."""

    thread_name: ClassVar[str] = "runstate-event-feed"
    space_s: ClassVar[float] = 0.02

    def __init__(self, read: Read, notifier: LocalNotifier, display_url: str) -> None:
        super().__init__(read, notifier, display_url)
        self._entries_changed = Signal()
        """Set when a run may have ended since the last read."""
        self._looked_at = float("-inf")
        """When the ends of runs were read last, by the monotonic clock."""

    def _new_tail(self, key: int, start: int) -> _EventTail:
        return _EventTail(start)

    def _joined(self, key: int) -> None:
        self._entries_changed.set()

    def _on_change(self, change: Change) -> None:
        if change & Change.ENTRY:
            self._entries_changed.set()
        if change & (Change.EVENT | Change.ENTRY) and not self._wake.is_set():
            self._wake.set()

    def _read_new(self) -> None:
        tails = self._live_tails()
        if not tails:
            return
        ends = self._entries_changed.is_set() or monotonic() > self._looked_at + POLL_S
        self._entries_changed.clear()

        def look(session: Connection) -> tuple[set[int] | None, Sequence[Any]]:
            params = session.bind_rows(POSITION_COLUMNS, [(seq, tail.last) for seq, tail in tails.items()])
            live: set[int] | None = None
            if ends:  # before the events: a run that has ended by now emits no more
                live = {row[0] for row in session.execute(session.statements.live_runs, params)}
            return live, session.execute(session.statements.new_events, {**params, "limit": _MOST_ROWS})

        try:
            live, rows = self._read(look)
        except BaseException:
            self._entries_changed.set()
            raise
        if ends:
            self._looked_at = monotonic()
        news: dict[int, list[Event]] = {}
        for seq, *row in rows:
            news.setdefault(seq, []).extend(decode_events(*row))
        is_complete = len(rows) < _MOST_ROWS
        if not is_complete:
            self._wake.set()
        self._publish(tails, news, tails.keys() - live if live is not None and is_complete else ())
        if live is not None and not is_complete:
            self._entries_changed.set()


class _Reader:
    """The position of a reader of one run."""

    def __init__(self, run_id: str, after: int) -> None:
        self._run_id = run_id
        self._after = after
        """The number of the last event that was yielded, or from which the caller resumes."""
        self.seq: int | None = None
        self.start = after
        """Where the feed begins: the caller may resume after an event that does not exist yet."""

    def read(self, session: Connection) -> tuple[int, int, list[Event]]:
        """Read the seq of the run, the next events, and without any the number of the last one. For `take`."""
        seq = seq_of(session, self._run_id) if self.seq is None else self.seq
        page = read_events(session, seq, self._after)
        last: Sequence[Any] = () if page else session.execute(session.statements.last_event, {"run": seq})
        return seq, last[0][0] if last else 0, page

    def take(self, seq: int, last: int, page: list[Event]) -> list[Event]:
        """Record what was read. Return the events."""
        self.seq = seq
        self.start = min(self._after, last)
        return page

    def passed(self, event: Event) -> bool:
        """Record an event. Return whether it is new to the reader."""
        self.start = event.number
        is_new = event.number > self._after
        self._after = max(self._after, event.number)
        return is_new


def follow(feed: EventFeed, read: Read, run_id: str, after: int) -> Iterator[Event]:
    """Yield the events of a run after a number as they are written, until the run has ended."""
    reader = _Reader(run_id, after)
    while page := reader.take(*read(reader.read)):  # without the feed, which serves all readers
        yield from filter(reader.passed, page)
    with feed.following(cast("int", reader.seq), reader.start) as tail:
        while True:
            events, is_live = feed.take(tail, reader.start)
            if events is None or not (events or is_live):  # once more at the end: its commit was seen before some event
                events = reader.take(*read(reader.read))
                if not events and not is_live:
                    return
            yield from filter(reader.passed, events)
            if not events:
                feed.wait(tail, reader.start)


async def follow_async(feed: EventFeed, read: Read, run_id: str, after: int) -> AsyncIterator[Event]:
    """Yield events like `follow`, for coroutines. `read` returns awaitables."""
    reader = _Reader(run_id, after)
    while page := reader.take(*await read(reader.read)):
        for event in filter(reader.passed, page):
            yield event
    with feed.following(cast("int", reader.seq), reader.start) as tail:
        while True:
            events, is_live = feed.take(tail, reader.start)
            if events is None or not (events or is_live):
                events = reader.take(*await read(reader.read))
                if not events and not is_live:
                    return
            for event in filter(reader.passed, events):
                yield event
            if not events:
                await feed.wait_async(tail, reader.start)
