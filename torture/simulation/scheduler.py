"""Who goes on next, and what time it is: strands that take turns, and timers that are jumped to.

A strand is a thread of the library's that runs only while all others wait, so between two places where it waits nobody
comes between. Who is next is the seed's choice.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torture.simulation.process import Process

__all__ = ["Crashed", "Runnable", "Scheduler", "Strand", "playing"]

BEGIN_US: Final = 1_800_000_000_000_000
_NOBODY_S: Final = 0.0
# Handed to and fro between the scheduler and the strand that is under way; of both only one ever runs.
_main: Final = allocate_lock()
_main.acquire()


class Crashed(BaseException):
    """The process is dead: raised wherever one of its strands stands."""


class Runnable(Protocol):
    """What the scheduler can let go on."""

    @property
    def process(self) -> Process:
        """Whose code it is."""
        ...

    def go_on(self) -> None:
        """Run until there is something to wait for."""
        ...


class _Carrier:
    """A thread that carries one strand after the other."""

    idle: Final[list[_Carrier]] = []

    def __init__(self) -> None:
        self.gate = allocate_lock()
        self.gate.acquire()
        self.strand: Strand | None = None
        Thread(target=self._go, name="simulation", daemon=True).start()

    def _go(self) -> None:
        while True:
            self.gate.acquire()
            assert self.strand is not None
            self.strand.live()
            self.strand = None
            _Carrier.idle.append(self)
            _main.release()


class Strand:
    """A thread of a simulated process."""

    __slots__ = (
        *("_among", "_carrier", "_function", "_scheduler", "_ticket", "_waits"),
        *("awaited", "ended", "name", "process", "timed_out"),
    )

    def __init__(self, process: Process, name: str, function: Callable[[], object]) -> None:
        self.process = process
        self.name = name
        self.ended = False
        self.awaited: list[Strand] = []
        """Who waits for its end."""
        self.timed_out = False
        self._ticket = 0
        """Counts its waits: a timer of an earlier one means nothing."""
        self._waits = True
        self._among: list[Strand] | None = None
        self._function = function
        self._carrier: _Carrier | None = None
        self._scheduler = process.scheduler

    def go_on(self) -> None:
        """Let it run until it waits or ends; asked by the scheduler alone."""
        carrier = self._carrier
        if carrier is None:
            carrier = self._carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            carrier.strand = self
        self._scheduler.strand = self
        carrier.gate.release()
        _main.acquire()
        self._scheduler.strand = None

    def live(self) -> None:
        """Run from beginning to end, in a thread of its own."""
        try:
            if self.process.alive:
                self._function()
        except Crashed:
            pass
        except BaseException as error:
            self._scheduler.faults.append(f"{self.process.name}: {self.name} died of {error!r}")
        self.ended = True
        for other in self.awaited:
            other.wake()
        self.awaited = []

    def wait(self, among: list[Strand] | None = None, seconds: float | None = None) -> bool:
        """Stand still until somebody wakes it, or for so long; return whether somebody did."""
        if not self.process.alive:
            raise Crashed
        self._ticket += 1
        self._waits, self.timed_out = True, False
        if seconds is not None:
            self._scheduler.after(seconds, self._time_out, self._ticket)
        if among is not None:
            among.append(self)
            self._among = among
        self._suspend()
        return not self.timed_out

    def pass_on(self) -> None:
        """Let somebody else go on, if the seed will."""
        if not self.process.alive:
            raise Crashed
        if not self._scheduler.keeps(self):  # or two threads would take turns for nothing
            self._suspend()

    def _suspend(self) -> None:
        carrier = self._carrier
        assert carrier is not None
        _main.release()
        carrier.gate.acquire()
        if not self.process.alive:
            self._leave()
            raise Crashed

    def _leave(self) -> None:
        if self._among is not None:
            if self in self._among:
                self._among.remove(self)
            self._among = None

    def wake(self) -> None:
        """Let it go on when its turn comes."""
        if self._waits:
            self._waits = False
            self._leave()
            self._scheduler.ready.append(self)

    def _time_out(self, ticket: object) -> None:
        if ticket == self._ticket and self._waits and not self.ended:
            self.timed_out = True
            self.wake()

    @property
    def begun(self) -> bool:
        """Whether it has run at all."""
        return self._carrier is not None


class Scheduler:
    """Chooses by the seed who goes on; time passes when all wait, and a little at every call of the database."""

    def __init__(self, random: Random) -> None:
        self.random: Final = random
        self.now: int = BEGIN_US
        """The true time, in microseconds."""
        self.ready: Final[list[Runnable]] = []
        self.strand: Strand | None = None
        """The strand under way; None while a loop's callbacks run."""
        self.process: Process | None = None
        """Whose code runs."""
        self.faults: Final[list[str]] = []
        """What nothing should have raised."""
        self._timers: list[tuple[int, int, Callable[[object], None], object]] = []
        self._count = 0
        self._next: Runnable | None = None
        """Whom a strand that passed on chose."""

    def after(self, seconds: float, call: Callable[[object], None], given: object = None) -> None:
        """Have something called after so many seconds."""
        self.at(self.now + int(seconds * 1_000_000) + 1, call, given)  # no wait is for nothing

    def at(self, when: int, call: Callable[[object], None], given: object = None) -> None:
        """Have something called at a time."""
        self._count += 1
        heappush(self._timers, (when, self._count, call, given))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Go on until it is over, or nothing can happen any more."""
        ready, timers, random = self.ready, self._timers, self.random.random
        while not is_over():
            while timers and (timers[0][0] <= self.now or not (ready or self._next)):
                when, _, call, given = heappop(timers)
                if when > self.now:
                    self.now = when
                call(given)
            if self._next is not None:
                runnable, self._next = self._next, None
            elif ready:
                place = int(random() * len(ready))
                runnable = ready[place]
                ready[place] = ready[-1]
                ready.pop()
            else:
                return
            self.let(runnable)

    def keeps(self, strand: Strand) -> bool:
        """Choose who is next among the ready and a strand that might go on; tell whether it is that one."""
        ready, process = self.ready, strand.process
        if (self._timers and self._timers[0][0] <= self.now) or process.stands_until > self.now:
            ready.append(strand)
            return False
        place = int(self.random.random() * (len(ready) + 1))
        if place == len(ready):
            return True
        self._next, ready[place] = ready[place], strand
        return False

    def let(self, runnable: Runnable) -> None:
        """Let somebody go on."""
        process = runnable.process
        if not process.alive:
            return
        if process.stands_until > self.now:
            process.parked.append(runnable)
            return
        self.process = process
        runnable.go_on()
        self.process = None
        if process.doomed:
            process.bury()

    @property
    def who(self) -> Process:
        """The process whose code runs."""
        assert self.process is not None
        return self.process


_playing: Scheduler | None = None


def playing() -> Scheduler:
    """Return the scheduler of the world that is under way."""
    if _playing is None:
        raise Crashed  # what a world left behind is being taken down
    return _playing


def play(scheduler: Scheduler | None) -> None:
    """Let a world be the one under way; None after it."""
    global _playing
    _playing = scheduler
