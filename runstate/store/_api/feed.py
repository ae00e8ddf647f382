"""Feeds: one thread of a process reads what is new in a store, for all readers of the process."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import islice
from threading import Event as Signal
from threading import RLock, Thread
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

import attrs

from runstate.clock import monotonic, sleep
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._sql.connection import Connection
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError

__all__ = ["POLL_S", "Feed", "Read", "Tail"]

P = TypeVar("P", int, tuple[int, ...])
T = TypeVar("T")

_log: Final = logging.getLogger("runstate.store")

POLL_S: Final = 0.5
"""The seconds between two reads without a notification."""
_REST: Final = 2  # of the time that a read took: it may be long, if there are many readers, or the server is busy
_CLOSING_S: Final = 5.0  # for a read to finish when the feed is closed
_MOST_KEPT: Final = 2000  # items of a tail: a reader that is further behind reads for itself

Read: TypeAlias = Callable[[Callable[[Connection], Any]], Any]


@attrs.define(eq=False)
class _ThreadWaiter:
    """A thread that waits for the next item."""

    signal: Signal = attrs.field(factory=Signal)
    error: StoreError | None = None


_TaskWaiter: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]
"""A coroutine that waits for the next item: a future to be set, in its event loop."""


class Tail(ABC, Generic[P, T]):
    """The last items of what some readers follow, such as a run. The feed's lock guards it."""

    def __init__(self, start: P) -> None:
        self.base: P = start
        """The position of the item before those kept here."""
        self.last: P = start
        """The position of the last item that was read."""
        self.is_live = True
        """False once everything was read, and nothing will follow."""
        self.readers = 0
        self.waiters: list[_ThreadWaiter | _TaskWaiter] = []
        self._items: deque[T] = deque()

    @abstractmethod
    def position_of(self, item: T) -> P:
        """Return the position of an item. It increases from item to item."""

    def count_up_to(self, position: P) -> int:
        """Return how many of the items kept are not after a position, which is not before `base`."""
        return bisect_right(self._items, position, key=self.position_of)

    def after(self, position: P) -> Sequence[T] | None:
        """Return the items after a position; None if the reader has to read them itself."""
        if position >= self.last:
            return ()
        if position < self.base:
            return None
        return list(islice(self._items, self.count_up_to(position), None))

    def add(self, items: Iterable[T]) -> None:
        """Add those of the items that are new."""
        new = [item for item in items if self.position_of(item) > self.last]
        if not new:
            return
        self._items.extend(new)
        self.last = self.position_of(new[-1])
        while len(self._items) > _MOST_KEPT:
            self.base = self.position_of(self._items.popleft())


class Feed(ABC, Generic[T]):
    """Reads the new items of all tails that are followed, and wakes their readers.

    The thread starts with the first reader, and ends when there are none. A reader that does not consume its items
    delays no other: nothing is kept for it but its position.
    """

    thread_name: ClassVar[str]
    space_s: ClassVar[float]
    """The seconds between the beginnings of two reads, at least."""

    def __init__(self, read: Read, notifier: LocalNotifier, display_url: str) -> None:
        self._read = read
        self._notifier = notifier
        self._display_url = display_url
        self._tails: dict[int, Tail[Any, T]] = {}
        # The same thread may take it twice: the garbage collector may end a generator that follows a tail at any time.
        self._lock: Final = RLock()
        self._wake: Final = Signal()
        self._closed = False
        self._thread: Thread | None = None

    @abstractmethod
    def _new_tail(self, key: int, start: Any) -> Tail[Any, T]:
        """Return a new tail that begins after a position."""

    @abstractmethod
    def _on_change(self, change: Change) -> None:
        """Receive a notification. It may come in any thread."""

    @abstractmethod
    def _read_new(self) -> None:
        """Read what is new in all tails, and publish it."""

    def _joined(self, key: int) -> None:
        """Record that a reader has joined a tail, under the lock. What it has not read may be older than the feed."""

    def _failed(self, error: StoreError) -> None:
        """Record that the store could not be read."""
        _log.debug("%s: the store cannot be read: %s", self.thread_name, error)

    # --- for readers ----------------------------------------------------------------------------------------------

    @contextmanager
    def following(self, key: int, start: P) -> Generator[Tail[P, T], None, None]:
        """Follow a tail inside the block, for a reader that has everything up to a position."""
        with self._lock:
            self._require_open()
            tail = self._tails.get(key)
            if tail is None:
                tail = self._tails[key] = self._new_tail(key, start)
            tail.readers += 1
            self._joined(key)
            if self._thread is None:
                thread = Thread(target=self._run, name=self.thread_name, daemon=True)
                thread.start()
                self._thread = thread  # not before: an interrupt may come between, and `close` joins what has started
        self._wake.set()
        try:
            yield tail
        finally:
            with self._lock:
                tail.readers -= 1
                if not tail.readers:
                    del self._tails[key]

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self._display_url} is closed")

    def take(self, tail: Tail[P, T], position: P) -> tuple[Sequence[T] | None, bool]:
        """Return the items after a position, None if they are to be read; and whether there may be more later."""
        with self._lock:
            self._require_open()
            return tail.after(position), tail.is_live

    def wait(self, tail: Tail[P, T], position: P) -> None:
        """Block until there are items after a position, or the reader has to read for itself to find out.

        Raises the error of the feed if the store cannot be read, and `_failed` passes that on.
        """
        waiter = _ThreadWaiter()
        with self._lock:
            if self._is_ready(tail, position):
                return
            tail.waiters.append(waiter)
        try:
            waiter.signal.wait()
        except BaseException:
            self._forget(tail, waiter)
            raise
        if waiter.error is not None:
            raise waiter.error

    async def wait_async(self, tail: Tail[P, T], position: P) -> None:
        """Do the same as `wait`, in a coroutine."""
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        with self._lock:
            if self._is_ready(tail, position):
                return
            tail.waiters.append(waiter)
        try:
            await waiter[1]
        except BaseException:
            self._forget(tail, waiter)
            raise

    def _is_ready(self, tail: Tail[P, T], position: P) -> bool:
        return tail.last > position or not tail.is_live or self._closed

    def _forget(self, tail: Tail[P, T], waiter: _ThreadWaiter | _TaskWaiter) -> None:
        with self._lock, suppress(ValueError):  # one that was woken is no longer in the list
            tail.waiters.remove(waiter)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff()
        with self._notifier.subscribe(self._on_change):
            while True:
                self._wake.wait(POLL_S)
                self._wake.clear()
                began = monotonic()
                if self._is_done():
                    return
                try:
                    self._read_new()
                except StoreError as error:
                    self._failed(error)
                    self._wake.set()
                    sleep(backoff.next())
                except Exception:  # a bug of this library: readers must not wait forever
                    _log.exception("%s: the store cannot be read", self.thread_name)
                    sleep(backoff.next())
                else:
                    backoff.reset()
                took = monotonic() - began
                sleep(max(self.space_s - took, _REST * took))

    def _is_done(self) -> bool:
        """Return whether nothing is followed any more. Then another thread is started for the next reader."""
        with self._lock:
            if self._tails and not self._closed:
                return False
            self._thread = None
            return True

    def _live_tails(self) -> dict[int, Tail[Any, T]]:
        with self._lock:
            return {key: tail for key, tail in [*self._tails.items()] if tail.is_live}

    def _publish(
        self, tails: Mapping[int, Tail[Any, T]], new: Mapping[int, Sequence[T]], ended: Iterable[int] = ()
    ) -> None:
        """Add new items to their tails, and wake the readers. The tails are those for which the items were read.

        A tail with the same key may have replaced one of them meanwhile, and may begin earlier.
        """
        waiters: list[_ThreadWaiter | _TaskWaiter] = []
        with self._lock:
            ends = set(ended)
            for key in new.keys() | ends:
                tail = tails[key]
                if self._tails.get(key) is tail:
                    tail.add(new.get(key, ()))
                    tail.is_live = tail.is_live and key not in ends
                    waiters += _taken_from(tail)
        _wake(waiters)

    def _wake_readers(self, keys: Iterable[int] | None = None, error: StoreError | None = None) -> None:
        """Wake the readers that wait for tails, by default for all: they read for themselves, or raise an error."""
        waiters: list[_ThreadWaiter | _TaskWaiter] = []
        with self._lock:
            for key in [*self._tails] if keys is None else keys:
                if key in self._tails:
                    waiters += _taken_from(self._tails[key])
        _wake(waiters, error)

    def close(self) -> None:
        """Let all readers raise `StoreError`, and end the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake_readers()
        self._wake.set()
        if thread is not None:
            thread.join(_CLOSING_S)


def _taken_from(tail: Tail[Any, Any]) -> list[_ThreadWaiter | _TaskWaiter]:
    waiters, tail.waiters = tail.waiters, []
    return waiters


def _wake(waiters: Iterable[_ThreadWaiter | _TaskWaiter], error: StoreError | None = None) -> None:
    """Wake threads, and coroutines by one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if isinstance(waiter, _ThreadWaiter):
            waiter.error = _copy_of(error)
            waiter.signal.set()
        else:
            loop, future = waiter
            by_loop.setdefault(loop, []).append(future)
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set_all, futures, error)


def _copy_of(error: StoreError | None) -> StoreError | None:
    """Return an error for one reader: raising it adds its traceback."""
    if error is None:
        return None
    own = copy(error)
    own.__cause__ = error.__cause__
    return own


def _set_all(futures: Sequence[asyncio.Future[None]], error: StoreError | None) -> None:
    for future in futures:
        if future.done():  # cancelled
            continue
        own = _copy_of(error)
        if own is None:
            future.set_result(None)
        else:
            future.set_exception(own)
