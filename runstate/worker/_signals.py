"""The signals that end a process: the first asks it to stop, the second ends it whatever its threads are doing.

The interpreter calls the handler of a signal in the main thread, between two steps of Python code: never while that
thread waits in C code, and in vain where a handler of runs blocks the event loop that would have to act. So the signals
are also read in a thread of their own, from the descriptor to which the interpreter writes their numbers at once. That
thread in turn does not run while C code keeps the interpreter's lock. Whichever of the two comes first counts.
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

_BLOCKED_S: Final = 2.0  # after a second signal an event loop that stands still for longer is not waited for
_END_S: Final = 4.0  # from the second signal to the end of the block, and from there to the end of the process
_LOOK_S: Final = 0.1  # between two looks whether the time is over
_SAY_S: Final = 0.2  # for the log, which may be blocked like everything else

_MARK: Final = b"\0"  # among the numbers of signals: what came before it was read
_ending: Final = threading.Lock()

_SignalHandler: TypeAlias = "Callable[[int, FrameType | None], Any] | int | None"


class StopSignals:
    """Listens to SIGTERM and SIGINT while a block runs in the main thread; in another thread it does nothing.

    `stop` is called for the first signal and again for the second, in any thread; `moved_at` says when the event loop
    last moved. After a second signal, leaving the block raises `SystemExit` with 128 and the signal's number, as a
    shell counts. If the loop stands still, or the end does not come in time, the process is ended with the same code.
    """

    def __init__(
        self,
        stop: Callable[[], None],
        moved_at: Callable[[], float],
        *,
        numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT),
        takes_over: bool = True,
    ) -> None:
        """Get ready. `takes_over`: replace the handlers of these signals; else watch what they do, in the block."""
        self._stop: Final = stop
        self._moved_at: Final = moved_at
        self.numbers: Final = numbers
        self._takes_over: Final = takes_over
        self._lock: Final = threading.RLock()  # a signal may come while the handler of another runs
        self._handled = 0
        self._read = 0
        self._count = 0
        """How many signals came: each is handled and read, in whichever order."""
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
        if ends and not hasattr(sys, "ps1"):  # at a prompt it goes on
            # The program ends by itself, unless it waits for threads that never do.
            self._ends_at, self._is_left = monotonic() + _END_S, True
        else:
            _current = None
            self._restore()
            self._writer.close()  # which ends the thread
            self._thread.join(_END_S)
        if self._second is not None and self._takes_over:
            self._exit(128 + self._second, error)

    def _catch_up(self) -> None:
        """Wait until the thread has read the signals that came: one of them may be why the block is left."""
        if self._writer is not None and not self._takes_over:
            with suppress(OSError):  # it is full: there is much to be read
                self._writer.send(_MARK)
            self._caught_up.wait(_END_S)

    @staticmethod
    def _exit(code: int, error: BaseException | None) -> None:
        """End the program with the exit code of the second signal."""
        if isinstance(error, Exception):
            _log.error("stopped by a second signal, and by an error", exc_info=error)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would end the process when Python forgets its handlers
        raise SystemExit(code)

    def _restore(self) -> None:
        for number, before in self._previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        signal.set_wakeup_fd(self._previous_wakeup)

    def forget(self) -> None:
        """Leave the signals to the parent, in a forked child, which shares the descriptor and has nothing to stop."""
        self._previous_wakeup = -1
        self._restore()

    # --- what comes -----------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal in the main thread."""
        with self._lock:
            self._handled += 1
            self._take(number, self._handled)
        if self._second is not None:
            self._end_if_over()
            self._look_again()

    def _look_again(self) -> None:
        """Have the main thread look, too, whether it is over: C code may let it and no other thread."""
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._handle_alarm)
            signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)

    def _handle_alarm(self, number: int, frame: FrameType | None) -> None:
        self._end_if_over()

    def _listen(self, reader: socket.socket) -> None:
        """Take signals as they come, in a thread of its own; after the second see to the end of the process."""
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
        """Act on a signal that was not counted yet."""
        if count <= self._count:
            return
        self._count = count
        if count == 2:
            now = monotonic()
            # Where others handle the signal, they may get the main thread out of what blocks it.
            self._second, self._ends_at, self._waits_from = number, now + _END_S, 0.0 if self._takes_over else now
        if count <= 2:
            self._stop()

    def _end_if_over(self) -> None:
        """End the process if a second signal came and nothing is to be waited for any more."""
        if self._second is None:
            return
        now = monotonic()
        is_blocked = not self._is_left and now - max(self._moved_at(), self._waits_from) > _BLOCKED_S
        if is_blocked or self._count > 2 or now > self._ends_at:
            end_process(128 + self._second)


def end_process(code: int) -> None:
    """End this process, and wait for nothing: what is stuck may hold any lock, that of the log among them.

    The two threads that see to it may come at once. The log has one line; who comes second waits as long for it.
    """
    if _ending.acquire(blocking=False):
        said = threading.Thread(
            target=_log.critical,
            args=("a second signal ends this process; its runs wait for their lease",),
            daemon=True,
        )
        with suppress(RuntimeError):  # no thread begins once the interpreter ends
            said.start()
            said.join(_SAY_S)
    else:
        threading.Event().wait(_SAY_S)
    os._exit(code)


def interrupts_end_process(moved_at: Callable[[], float]) -> StopSignals:
    """Return the block inside which a second Ctrl-C ends the process, also while C code blocks its main thread.

    Only where SIGINT is Python's own business, to which the event loop adds; engines have handlers that they rely on.
    """
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return StopSignals(_nothing, moved_at, numbers=(signal.SIGINT,) if is_pythons else (), takes_over=False)


def _nothing() -> None:
    return


_current: StopSignals | None = None


# Until a forked child has forgotten, a signal of its own would be told to its parent, and lost to itself.
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
