"""The signals that end a process: the first requests a stop, the second ends the process whatever its threads do.

The interpreter calls signal handlers in the main thread, between two steps of Python code. That never happens while the
thread waits in C code, and it has no effect while a run's handler blocks the event loop. So another thread also reads
the signals, from the file descriptor to which the interpreter writes their numbers at once. That thread in turn does
not run while C code keeps the interpreter's lock. Whichever of the two comes first counts.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeAlias

from runstate.clock import monotonic

__all__ = ["StopSignals", "interrupts_end_process"]

_log: Final = logging.getLogger("runstate.worker")

_BLOCKED_S: Final = 2.0  # after a second signal, the process is ended if the event loop stands still for longer
_END_S: Final = 4.0  # from the second signal to the end of the block, and from there to the end of the process
_LOOK_S: Final = 0.1  # between two checks whether the time is over
_SAY_S: Final = 0.2  # for the log, which may be blocked too

_MARK: Final = b"\0"  # written among the numbers of signals: all signals before it were read
_ending: Final = threading.Lock()

_SignalHandler: TypeAlias = "Callable[[int, FrameType | None], Any] | int | None"


class StopSignals:
    """Handles SIGTERM and SIGINT while a block runs in the main thread. Does nothing in another thread.

    `stop` is called for the first signal and again for the second, in any thread. `moved_at` returns when the event
    loop last moved, by the monotonic clock. After a second signal, the end of the block raises `SystemExit` with 128
    plus the signal's number, the exit code that a shell expects. If the loop stands still, or the block does not end in
    time, the process is ended by force with the same code.
    """

    def __init__(
        self,
        stop: Callable[[], None],
        moved_at: Callable[[], float],
        *,
        numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT),
        takes_over: bool = True,
    ) -> None:
        """Prepare. With `takes_over`, replace the handlers of these signals; otherwise only count the signals."""
        self._stop: Final = stop
        self._moved_at: Final = moved_at
        self.numbers: Final = numbers
        self._takes_over: Final = takes_over
        self._lock: Final = threading.RLock()  # a signal may come while the handler of another one runs
        self._handled = 0
        self._read = 0
        self._count = 0
        """How many signals came. Each is handled in the main thread and read in the other one, in any order."""
        self._second: int | None = None
        self._waits_from = float("-inf")
        self._ends_at = float("inf")
        self._is_left = False
        self._previous: dict[int, _SignalHandler] = {}
        self._previous_wakeup = -1
        self._writer: socket.socket | None = None
        self._caught_up: Final = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        global _current
        if not self.numbers or _current is not None or threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        try:
            self._previous_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        except ValueError:  # not the main interpreter
            reader.close()
            writer.close()
            return self
        _current, self._writer = self, writer
        self._thread = threading.Thread(target=self._listen, args=(reader,), name="runstate-signals", daemon=True)
        self._thread.start()
        for number in self.numbers if self._takes_over else ():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        if self._writer is None:
            return
        self._catch_up()
        ends = self._second is not None and (self._takes_over or isinstance(error, KeyboardInterrupt))
        if ends and not hasattr(sys, "ps1"):  # an interactive session goes on
            # The program ends by itself, unless it waits for threads that never end.
            self._ends_at, self._is_left = monotonic() + _END_S, True
        else:
            _current = None
            self._restore()
            self._writer.close()  # which ends the thread
            self._thread.join(_END_S)
        if self._second is not None and self._takes_over:
            self._exit(128 + self._second, error)

    def _catch_up(self) -> None:
        """Wait until the thread has read all signals so far: one of them may be the reason why the block ends."""
        if self._writer is not None and not self._takes_over:
            with suppress(OSError):  # the socket is full: there is much to read
                self._writer.send(_MARK)
            self._caught_up.wait(_END_S)

    @staticmethod
    def _exit(code: int, error: BaseException | None) -> None:
        """End the program with the exit code of the second signal."""
        if isinstance(error, Exception):
            _log.error("stopped by a second signal, and by an error", exc_info=error)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm would end the process when Python removes its handlers
        raise SystemExit(code)

    def _restore(self) -> None:
        for number, before in self._previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        signal.set_wakeup_fd(self._previous_wakeup)

    def forget(self) -> None:
        """Restore the handlers in a forked child. It shares the descriptor with its parent, and has nothing to stop."""
        self._previous_wakeup = -1
        self._restore()

    # --- signals --------------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread."""
        with self._lock:
            self._handled += 1
            self._take(number, self._handled)
        if self._second is not None:
            self._end_if_over()
            self._look_again()

    def _look_again(self) -> None:
        """Check by a timer in the main thread, too: C code may let it run, and no other thread."""
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._handle_alarm)
            signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)

    def _handle_alarm(self, number: int, frame: FrameType | None) -> None:
        self._end_if_over()

    def _listen(self, reader: socket.socket) -> None:
        """Read the signals, in a thread of its own. After the second one, end the process if necessary."""
        while True:
            reader.settimeout(None if self._second is None else _LOOK_S)
            found = None
            with suppress(TimeoutError):
                found = reader.recv(64)
            if found == b"":
                reader.close()
                return
            for number in found or ():
                if number in self.numbers:
                    with self._lock:
                        self._read += 1
                        self._take(number, self._read)
            if found is not None and _MARK in found:
                self._caught_up.set()
            self._end_if_over()

    def _take(self, number: int, count: int) -> None:
        """Handle a signal that was not counted yet."""
        if count <= self._count:
            return
        self._count = count
        if count == 2:
            now = monotonic()
            # Another handler of the signal may interrupt what blocks the main thread.
            self._second, self._ends_at, self._waits_from = number, now + _END_S, 0.0 if self._takes_over else now
        if count <= 2:
            self._stop()

    def _end_if_over(self) -> None:
        """End the process if a second signal came, and the loop stands still, the time is over, or a third one came."""
        if self._second is None:
            return
        now = monotonic()
        is_blocked = not self._is_left and now - max(self._moved_at(), self._waits_from) > _BLOCKED_S
        if is_blocked or self._count > 2 or now > self._ends_at:
            end_process(128 + self._second)


def end_process(code: int) -> None:
    """End this process without waiting: a thread that is stuck may hold any lock, including that of the log.

    Two threads may call this at the same time. One of them logs one line, and the other one waits as long.
    """
    if _ending.acquire(blocking=False):
        said = threading.Thread(
            target=_log.critical,
            args=("a second signal ends this process; its runs wait for their lease",),
            daemon=True,
        )
        with suppress(RuntimeError):  # no thread can start while the interpreter ends
            said.start()
            said.join(_SAY_S)
    else:
        threading.Event().wait(_SAY_S)
    os._exit(code)


def interrupts_end_process(moved_at: Callable[[], float]) -> StopSignals:
    """Return a block inside which a second Ctrl-C ends the process, also while C code blocks its main thread.

    It only has an effect if SIGINT has Python's default handler, to which the event loop adds its own. Engines rely on
    their own handlers.
    """
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return StopSignals(_nothing, moved_at, numbers=(signal.SIGINT,) if is_pythons else (), takes_over=False)


def _nothing() -> None:
    return


_current: StopSignals | None = None


# A signal to a forked child would be written to its parent, and lost to the child, until `forget` has been called.
_masks: Final = threading.local()


def _before_fork() -> None:
    _masks.before = None if _current is None else signal.pthread_sigmask(signal.SIG_BLOCK, _current.numbers)


def _after_fork() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    global _current
    if _current is not None:
        _current.forget()
        _current = None
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
