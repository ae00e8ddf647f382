"""Following the events of runs: one thread of a process reads those of all runs that it follows, for all readers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Condition, Lock, Thread
from threading import Event as Signal
from typing import Any, Final, TypeAlias, cast

import attrs

from runstate.clock import monotonic, sleep
from runstate.run.values import raise_if_invalid
from runstate.store._api.events import decode_events, position_errors, read_events
from runstate.store._api.queries import seq_of
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._sql.connection import Connection
from runstate.store._sql.events import POSITION_COLUMNS
from runstate.store._types import Event
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError

__all__ = ["EventFeed", "checked_position", "follow", "follow_async"]

_log: Final = logging.getLogger("runstate.store")

_SPACE_S: Final = 0.02  # between two reads
_LOOK_S: Final = 0.5  # between two reads without a notification
_CLOSING_S: Final = 5.0  # for a read to finish when the feed is closed
_MOST_ROWS: Final = 5000  # of one read
_MOST_KEPT: Final = 2000  # events of a run: a reader that is further behind reads for itself

Waker: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]
"""A future to be set, in its event loop."""
Read: TypeAlias = Callable[[Callable[[Connection], Any]], Any]


def checked_position(run_id: str, after: int) -> None:
    """Raise `InvalidRun` unless these are the id of a run and the number of an event, or 0."""
    raise_if_invalid(position_errors(run_id, after))


@attrs.define(eq=False)
class _RunTail:
    """The last events of a run that is followed."""

    seq: int
    base: int
    """The number of the event before those kept here."""
    last: int
    """The number of the last event that was read."""
    events: deque[Event] = attrs.field(factory=lambda: deque[Event]())
    is_live: bool = True
    """False once the run has ended and all its events were read."""
    readers: int = 0
    wakers: list[Waker] = attrs.field(factory=lambda: list[Waker]())
    """What wakes the coroutines that wait for the next event."""

    def after(self, number: int) -> Sequence[Event] | None:
        """Return the events after a number; None if the reader has to read them itself."""
        if number >= self.last:
            return ()
        if number < self.base:
            return None
        return [self.events[place] for place in range(number - self.base, len(self.events))]

    def add(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self.last = events[-1].number
        while len(self.events) > _MOST_KEPT:
            self.events.popleft()
            self.base += 1


class EventFeed:
    """Reads the new events of the runs that are followed, and wakes their readers."""

    def __init__(self, read: Read, notifier: LocalNotifier, display_url: str) -> None:
        self._read = read
        self._notifier = notifier
        self._display_url = display_url
        self._tails: dict[int, _RunTail] = {}
        self._news = Condition(Lock())
        """Guards the tails. Notified when there is something for plain readers."""
        self._wake = Signal()
        self._entries_changed = Signal()
        """Set when a run may have ended since the last read."""
        self._looked_at = float("-inf")
        """When the ends of runs were read last, by the monotonic clock."""
        self._closed = False
        self._thread: Thread | None = None

    @contextmanager
    def following(self, seq: int, number: int) -> Generator[_RunTail, None, None]:
        """Follow a run inside the block, for a reader that has its events up to a number."""
        with self._news:
            self._require_open()
            tail = self._tails.get(seq)
            if tail is None:
                tail = self._tails[seq] = _RunTail(seq, number, number)
            tail.readers += 1
            if self._thread is None:
                self._thread = Thread(target=self._run, name="runstate-event-feed", daemon=True)
                self._thread.start()
        self._entries_changed.set()
        self._wake.set()
        try:
            yield tail
        finally:
            with self._news:
                tail.readers -= 1
                if not tail.readers:
                    del self._tails[seq]

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self._display_url} is closed")

    def take(self, tail: _RunTail, number: int) -> tuple[Sequence[Event] | None, bool]:
        """Return the events after a number, None if they are to be read; and whether there may be more later."""
        with self._news:
            self._require_open()
            return tail.after(number), tail.is_live

    def wait(self, tail: _RunTail, number: int) -> None:
        """Block until there are events after a number, or the run has ended."""
        with self._news:
            self._news.wait_for(lambda: tail.last > number or not tail.is_live or self._closed)

    async def wait_async(self, tail: _RunTail, number: int) -> None:
        """Do the same as `wait`, in a coroutine."""
        loop = asyncio.get_running_loop()
        waker = (loop, loop.create_future())
        with self._news:
            if tail.last > number or not tail.is_live or self._closed:
                return
            tail.wakers.append(waker)
        try:
            await waker[1]
        except BaseException:  # cancelled; a future that was set is no longer in the list
            with self._news, suppress(ValueError):
                tail.wakers.remove(waker)
            raise

    # --- the thread -----------------------------------------------------------------------------------------------

    def _on_change(self, change: Change) -> None:
        if change & Change.ENTRY:
            self._entries_changed.set()
        if change & (Change.EVENT | Change.ENTRY) and not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        backoff = Backoff()
        with self._notifier.subscribe(self._on_change):
            while True:
                self._wake.wait(_LOOK_S)
                self._wake.clear()
                began = monotonic()
                if self._is_done():
                    return
                try:
                    self._read_news()
                except StoreError as error:
                    _log.debug("the events cannot be read: %s", error)
                    self._wake.set()
                    sleep(backoff.next())
                except Exception:  # a bug of this library: readers must not wait forever
                    _log.exception("the events cannot be read")
                    sleep(backoff.next())
                else:
                    backoff.reset()
                sleep(max(0.0, _SPACE_S - (monotonic() - began)))

    def _is_done(self) -> bool:
        """Return whether nothing is followed any more. Then another thread is started for the next reader."""
        with self._news:
            if self._tails and not self._closed:
                return False
            self._thread = None
            return True

    def _read_news(self) -> None:
        with self._news:
            places = [(tail.seq, tail.last) for tail in self._tails.values() if tail.is_live]
        if not places:
            return
        ends = self._entries_changed.is_set() or monotonic() > self._looked_at + _LOOK_S
        self._entries_changed.clear()

        def look(session: Connection) -> tuple[set[int] | None, Sequence[Any]]:
            params = session.bind_rows(POSITION_COLUMNS, places)
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
        self._publish(news, {seq for seq, _ in places} - live if live is not None and is_complete else set())
        if live is not None and not is_complete:
            self._entries_changed.set()

    def _publish(self, news: dict[int, list[Event]], ended: set[int]) -> None:
        woken: list[Waker] = []
        with self._news:
            for seq in news.keys() | ended:
                tail = self._tails.get(seq)
                if tail is None:
                    continue
                events = [event for event in news.get(seq, ()) if event.number > tail.last]
                if events:
                    tail.add(events)
                tail.is_live = tail.is_live and seq not in ended
                woken += tail.wakers
                tail.wakers.clear()
            self._news.notify_all()
        _wake(woken)

    def close(self) -> None:
        """Let all readers raise `StoreError`, and end the thread."""
        with self._news:
            self._closed = True
            thread = self._thread
            woken = [waker for tail in self._tails.values() for waker in tail.wakers]
            self._news.notify_all()
        _wake(woken)
        self._wake.set()
        if thread is not None:
            thread.join(_CLOSING_S)


def _wake(wakers: Sequence[Waker]) -> None:
    """Set the futures, by one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for loop, future in wakers:
        by_loop.setdefault(loop, []).append(future)
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set_all, futures)


def _set_all(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():  # cancelled
            future.set_result(None)


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
