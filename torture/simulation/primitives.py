"""What the library stands on, in virtual time: threads, locks, queues, loops; as much as it uses of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from torture.simulation.scheduler import Crashed, Scheduler, Strand, playing

if TYPE_CHECKING:
    from contextvars import Context

    from torture.simulation.process import Process

__all__ = ["Event", "Lock", "Loop", "Pool", "Queue", "Thread", "monotonic", "pause"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def _here() -> Strand:
    strand = playing().strand
    assert strand is not None, "an event loop waits where only a thread may"
    return strand


def monotonic() -> float:
    """Return the seconds of a clock that nobody sets; each process counts from another moment."""
    scheduler = playing()
    return scheduler.now / 1_000_000 - scheduler.who.booted_at


def pause(seconds: float) -> None:
    """Wait for so many seconds."""
    _here().wait(None, seconds)


class Thread:
    """A thread that is a strand."""

    def __init__(self, target: Callable[[], object], name: str = "thread", daemon: bool = False) -> None:
        self._strand = playing().who.strand(name, target)

    def start(self) -> None:
        """Let it begin when its turn comes."""
        self._strand.wake()

    def is_alive(self) -> bool:
        return not self._strand.ended

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; a loop is not kept waiting."""
        if playing().strand is not None and not self._strand.ended:
            _here().wait(self._strand.awaited, timeout)


class Lock:
    """A lock; asking for it is a place where others may go on."""

    __slots__ = ("_locked", "_waiting")

    def __init__(self) -> None:
        self._locked = False
        self._waiting: list[Strand] = []

    def acquire(self, blocking: bool = True) -> bool:
        while self._locked:
            if not blocking:
                return False
            _here().wait(self._waiting)
        self._locked = True
        return True

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False
        if self._waiting:
            waiting = self._waiting
            waiting[int(playing().random.random() * len(waiting))].wake()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Event:
    """A flag to wait for."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Strand] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for strand in [*self._waiting]:
            strand.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            _here().wait(self._waiting, timeout)
        return self._set


class Queue:
    """A queue without bounds."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: list[Strand] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting:
            self._waiting[0].wake()

    def get(self) -> Any:
        while not self._items:
            _here().wait(self._waiting)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Pool:
    """Threads that read for coroutines: the loop knows what to do with what it is asked."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def shutdown(self) -> None:
        pass


class _Job:
    """A function that a thread of a pool calls."""

    __slots__ = ("_call", "_future", "process")

    def __init__(self, process: Process, call: Callable[[], object], future: asyncio.Future[Any]) -> None:
        self.process = process
        self._call = call
        self._future = future

    def go_on(self) -> None:
        if self.process.world.database.keeps_waiting(self):
            return
        try:
            found = self._call()
        except Crashed:
            return
        except Exception as error:
            self._future.get_loop().call_soon_threadsafe(self._answer, None, error)
        else:
            self._future.get_loop().call_soon_threadsafe(self._answer, found, None)

    def _answer(self, found: object, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is None:
            self._future.set_result(found)
        else:
            self._future.set_exception(error)


class Loop(asyncio.BaseEventLoop):
    """An event loop of a simulated process. As asyncio promises, what it is asked first it does first."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        super().__init__()
        self.process: Final = process
        self._scheduler = scheduler
        self._asked: deque[asyncio.Handle] = deque()
        self._is_ready = False

    def time(self) -> float:
        return self._scheduler.now / 1_000_000 - self.process.booted_at

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._take(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def _take(self, handle: object) -> None:
        assert isinstance(handle, asyncio.Handle)
        if handle.cancelled() or not self.process.alive:
            return
        self._asked.append(handle)
        if not self._is_ready:
            self._is_ready = True
            self._scheduler.ready.append(self)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if when != float("inf"):
            self._scheduler.at(int((when + self.process.booted_at) * 1_000_000) + 1, self._take, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: it is dropped when its time has come."""

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        self._scheduler.ready.append(_Job(self.process, lambda: func(*args), future))
        return future

    def go_on(self) -> None:
        """Make one round: do what was asked up to now."""
        self._is_ready = False
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self._asked)):
                handle = self._asked.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        if self._asked and not self._is_ready:
            self._is_ready = True
            self._scheduler.ready.append(self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._scheduler.faults.append(f"{self.process.name}: {context.get('message')}: {context.get('exception')!r}")
