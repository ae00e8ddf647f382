"""Writing the events of handlers: those of all runs of a process together, every 50 milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Event as Signal
from threading import Lock, Thread
from typing import Final, TypeAlias

from runstate.lifecycle import RunEvent
from runstate.run.errors import FieldError
from runstate.run.values import raise_if_invalid
from runstate.store._api.events import EventRow, save_events_command
from runstate.store._engine.commands import Command
from runstate.store._types import StoredRun
from runstate.store._worker_types import Checkpoint, Lease
from runstate.store.availability import Availability, Retry, is_outage
from runstate.store.errors import LeaseLost, StoreError, StoreUnavailable

__all__ = ["Emitter", "EventWriter"]

_GATHER_S: Final = 0.05  # events of this time are written together
_GATHER_CHARS: Final = 2048  # of JSON: more is written at once
_MOST_CHARS: Final = 1024 * 1024  # of one event
_MOST_WAITING: Final = 8 * 1024 * 1024  # characters of one run that wait for the database
_MOST_WRITTEN: Final = 4 * 1024 * 1024  # characters of one statement, and those of one more run
_MOST_EVENTS: Final = 100_000  # of one run
_CLOSING_S: Final = 5.0  # for what waits to be written when the writer is closed
_LOOK_S: Final = 0.2  # between two checks whether the store was closed, during an outage


Waiter: TypeAlias = Callable[[Exception | None], object]
"""A function that is called, in any thread, when events are durable, or with the error if they were refused."""


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Emitter:
    """Emits events of a claimed run. `Store.emitter` makes one.

    Events are numbered in the order in which they are emitted. They are written together with those of other runs,
    within 50 milliseconds or as soon as there are 2 KiB of them. `flush` waits until all are durable.
    """

    def __init__(self, writer: EventWriter, lease: Lease, run: StoredRun) -> None:
        self.lease: Final = lease
        self.run: Final = run
        self._writer = writer
        self._lock = Lock()
        self._texts: list[str] = []
        self._chars = 0
        self._next: int | None = None
        """The number of the next event. None until it is read from the store: an earlier call may have emitted some."""
        self._sending_chars = 0
        self._sending: EventRow | None = None
        """The row that is being written. It stays the same, so that a repeated one is recognised."""
        self._waiters: list[Waiter] = []
        self._sent_waiters: list[Waiter] = []
        self._error: Exception | None = None

    def emit(self, data: object) -> None:
        """Emit a JSON value as the next event of the run. This does not wait for the database.

        Raises `InvalidRun` for a value that is not JSON, or longer than 1 Mi characters, and for the 100,001st event of
        a run, and `LeaseLost` once events were refused because another worker has the run. If more than 8 Mi characters
        wait for the database, this waits in a thread; it raises `StoreUnavailable` during an outage, and `InvalidRun`
        inside an event loop, which it would block.
        """
        text = Checkpoint(data, "event").text
        if len(text) > _MOST_CHARS:
            raise_if_invalid([FieldError("event", f"is too large: {len(text)} characters, at most {_MOST_CHARS}")])
        with self._lock:
            if self._error is not None:
                raise self._error
            if (self._next or 1) + len(self._texts) > _MOST_EVENTS:
                raise_if_invalid(
                    [FieldError("event", f"the run has emitted {_MOST_EVENTS:,} events, and that is most")]
                )
            is_behind = self._chars + self._sending_chars > _MOST_WAITING
        if is_behind:
            self._catch_up()
        with self._lock:
            self._texts.append(text)
            self._chars += len(text) + 1
            is_full = self._chars >= _GATHER_CHARS
        self._writer.add(self, at_once=is_full)

    def _catch_up(self) -> None:
        """Wait for the database, or raise where that is not possible: a handler emits faster than it takes."""
        if self._writer.is_away:
            raise self._waits()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        told = (
            f"{_MOST_WAITING // 1024 // 1024} Mi characters wait for the store:"
            " an async handler that emits much has to await something, so that they can be written"
        )
        raise_if_invalid([FieldError("event", told)])

    def _waits(self) -> StoreUnavailable:
        return StoreUnavailable(f"run {self.run.id}: its events wait for the store, which cannot be used now")

    def flush(self, wanted: Callable[[], bool] | None = None) -> None:
        """Wait until all events that were emitted before are durable. Blocks the thread.

        Raises `LeaseLost` if another worker has the run, and `StoreUnavailable` as soon as `wanted` returns False.
        """
        done, errors = Signal(), list[Exception]()

        def settled(error: Exception | None) -> None:
            if error is not None:
                errors.append(error)
            done.set()

        if self._wait(settled):
            while not done.wait(_LOOK_S):
                if wanted is not None and not wanted():
                    raise self._waits()
        if errors:
            raise errors[0]

    async def flush_async(self) -> None:
        """Do the same as `flush`, in a coroutine."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settled(error: Exception | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_resolve, future, error)

        if self._wait(settled):
            await future

    def _wait(self, settled: Waiter) -> bool:
        """Let `settled` be called when the last event is durable or refused. Return False if all are durable."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._texts:
                self._waiters.append(settled)
            elif self._sending is not None:
                self._sent_waiters.append(settled)
            else:
                return False
        self._writer.add(self, at_once=True)
        return True

    # --- for the writer -------------------------------------------------------------------------------------------

    def take(self, last_number: Callable[[StoredRun], int]) -> EventRow | None:
        """Return the row to write: the one under way, else one of all events that wait; None if there is none."""
        if self._sending is not None or not self._texts:
            return self._sending
        number = last_number(self.run) + 1 if self._next is None else self._next
        with self._lock:
            texts, self._texts = self._texts, []
            self._sending_chars, self._chars = self._chars, 0
            self._sent_waiters, self._waiters = self._waiters, []
            self._next = number + len(texts)
            self._sending = EventRow(self.lease, self.run, number, texts)
        return self._sending

    def written(self) -> bool:
        """Record that the row is durable. Return whether more events wait."""
        return self._settle(None)

    def refuse(self, error: Exception) -> None:
        """Record that the row was refused, and drop what waits."""
        self._settle(error)

    def _settle(self, error: Exception | None) -> bool:
        with self._lock:
            self._sending, self._sending_chars = None, 0
            done, self._sent_waiters = self._sent_waiters, []
            if error is not None:
                self._error, self._texts, self._chars = error, [], 0
                done += self._waiters
                self._waiters = []
            more = bool(self._texts)
        for settled in done:
            settled(error)
        return more


class EventWriter:
    """Writes the events of all emitters of a store, in a thread of its own."""

    def __init__(
        self,
        execute: Callable[[Command[set[EventRow]]], set[EventRow]],
        last_number: Callable[[StoredRun], int],
        availability: Availability,
        check_open: Callable[[], None],
    ) -> None:
        """Prepare. `execute` commits a command, and `last_number` reads the number of the last event of a run.

        `check_open` raises `StoreError` if the store is closed, or was opened by the parent of this process.
        """
        self._execute = execute
        self._last_number = last_number
        self._availability = availability
        self._check_open = check_open
        self._lock = Lock()
        self._dirty: dict[Emitter, None] = {}
        """The emitters with events to write."""
        self._added = Signal()
        self._at_once = Signal()
        self._closed = False
        self._thread: Thread | None = None

    @property
    def is_away(self) -> bool:
        """Whether the database cannot be used now."""
        return self._availability.is_away

    def add(self, emitter: Emitter, *, at_once: bool) -> None:
        """Write the events of an emitter: soon, or at once. Raises `StoreError` if the store is closed."""
        self._check_open()
        with self._lock:
            if self._closed:  # before the other parts of the store
                raise StoreError("the store is closed")
            self._dirty[emitter] = None
            if self._thread is None:
                self._thread = Thread(target=self._run, name="runstate-events", daemon=True)
                self._thread.start()
        if at_once:
            self._at_once.set()
        if not self._added.is_set():
            self._added.set()

    def _run(self) -> None:
        while not self._closed:
            self._added.wait()
            if not self._closed:
                self._at_once.wait(_GATHER_S)
            self._added.clear()
            self._at_once.clear()
            self._write_added()
        while self._write_added():  # events that were added until it was closed, also while others were written
            pass

    def _write_added(self) -> bool:
        """Write the events of the emitters that were added. Return whether there were any."""
        with self._lock:
            emitters, self._dirty = list(self._dirty), {}
        if emitters:
            self._write(emitters)
        return bool(emitters)

    def _write(self, emitters: Sequence[Emitter]) -> None:
        """Write the events that wait. Repeat that during an outage, until the store is closed."""
        retry: Retry | None = None
        try:
            while True:
                try:
                    rows = [(each, row) for each in emitters if (row := each.take(self._last_number))]
                    kept = {
                        row
                        for some in _parts([row for _, row in rows])
                        for row in self._execute(save_events_command(some))
                    }
                except StoreError as error:
                    if not is_outage(error) or self._closed:
                        self._refuse(emitters, error)
                        return
                    retry = retry or Retry(self._availability)
                    retry.failed(error)
                    while not self._closed and not retry.wait(_LOOK_S):
                        pass
                except Exception as error:  # a bug of this library: the handlers must get it, and not wait forever
                    self._refuse(emitters, error)
                    return
                else:
                    break
            if retry is not None:
                retry.succeeded()
        finally:
            if retry is not None:
                retry.end()
        for emitter, row in rows:
            if row not in kept:
                emitter.refuse(LeaseLost(row.run, RunEvent.COMPLETE))
            elif emitter.written():
                self._continue(emitter)

    def _continue(self, emitter: Emitter) -> None:
        with self._lock:
            self._dirty[emitter] = None
        self._added.set()

    @staticmethod
    def _refuse(emitters: Sequence[Emitter], error: Exception) -> None:
        for emitter in emitters:
            emitter.refuse(error)

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._at_once.set()
        self._added.set()
        if thread is not None:
            thread.join(_CLOSING_S)


def _parts(rows: Sequence[EventRow]) -> Iterator[Sequence[EventRow]]:
    """Yield rows in parts: a database has a limit for one statement."""
    part: list[EventRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(map(len, row.texts))
        if size > _MOST_WRITTEN:
            yield part
            part, size = [], 0
    if part:
        yield part
