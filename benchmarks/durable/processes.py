"""Worker processes that start together, report what they measured, and never outlive the benchmark."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from ctypes import c_double, c_longlong
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray
from threading import Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

from benchmarks.durable.contestant import MeasurementFailed

TIMEOUT_S: Final = 60.0
"""After this, a process is killed and its measurement has failed."""


class Reporter:
    """What a worker process has: it waits for the start signal, and reports what it did in memory that all share."""

    def __init__(self, pipe: Connection, number: int, done: Any, first: Any, start_times: Any) -> None:
        self._pipe = pipe
        self._number = number
        self._done = done
        self._first = first
        self._start_times = start_times

    def wait_for_start(self) -> None:
        """Tell the parent that this worker is ready, and wait for the start signal."""
        self._pipe.send(None)
        if not self._pipe.poll(TIMEOUT_S):
            raise SystemExit("no start signal")
        self._pipe.recv()

    def count_run(self) -> None:
        """Count a run whose handler was called. The time of the first is kept."""
        if not self._done[self._number]:
            self._first[self._number] = monotonic()
        self._done[self._number] += 1

    def record_start(self, index: int) -> None:
        """Record the time at the first line of the handler of the run with this index."""
        self._start_times[index] = monotonic()

    def report(self, began: float, ended: float, count: int) -> None:
        """Report what this worker measured itself."""
        self._pipe.send((began, ended, count))


Work: TypeAlias = Callable[..., None]
"""`work(reporter, *arguments)`: a module-level function, because it runs in a new interpreter."""


class WorkerProcesses:
    """Worker processes that start together once all are ready, and are killed when the block ends."""

    def __init__(self, work: Work, *arguments: object, processes: int = 1, starts: int = 0) -> None:
        self._done = RawArray(c_longlong, processes)
        self._first = RawArray(c_double, processes)
        self._start_times = RawArray(c_double, max(starts, 1))
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        for number in range(processes):
            parent_end, child_end = context.Pipe()
            reporter = (child_end, number, self._done, self._first, self._start_times)
            process = context.Process(target=_run_work, args=(work, reporter, arguments), daemon=True)
            self._pipes.append(parent_end)
            self._processes.append(process)

    def __enter__(self) -> Self:
        try:
            for process in self._processes:
                process.start()
            self._receive_all()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kill()

    @property
    def pids(self) -> list[int]:
        """The processes, once they have started."""
        return [process.pid for process in self._processes if process.pid is not None]

    def are_alive(self) -> bool:
        """Return whether no process has ended."""
        return all(process.is_alive() for process in self._processes)

    def start(self) -> float:
        """Send the start signal to all; return the time."""
        now = monotonic()
        for pipe in self._pipes:
            pipe.send(None)
        return now

    def wait_for_reports(self, count: int) -> float:
        """Wait for the workers' reports; return the seconds from the first start to the last end."""
        reports = cast("list[tuple[float, float, int]]", self._receive_all())
        done = sum(report[2] for report in reports)
        if done != count:
            raise MeasurementFailed(f"{done} runs drained of {count}")
        return max(report[1] for report in reports) - min(report[0] for report in reports)

    def wait_until_done(self, count: int, is_done: Callable[[], bool]) -> float:
        """Wait until `count` handlers were called, and then for `is_done`; return the seconds since the first call."""
        self._poll_until(lambda: sum(self._done) >= count, 0.001)
        self._poll_until(is_done, 0.004)
        return monotonic() - min(moment for moment in self._first if moment)

    def start_times(self) -> list[float]:
        """Wait until every handler has started; return the times."""
        self._poll_until(lambda: all(self._start_times), 0.01)
        return list(self._start_times)

    def _poll_until(self, is_done: Callable[[], bool], every: float) -> None:
        end = monotonic() + TIMEOUT_S
        while not is_done():
            if monotonic() > end:
                raise MeasurementFailed(f"not done after {TIMEOUT_S:.0f} s: {list(self._done)} handlers called")
            if not self.are_alive():
                raise MeasurementFailed("a worker ended early")
            sleep(every)

    def _receive_all(self) -> list[object]:
        received: dict[Connection, object] = {}
        end = monotonic() + TIMEOUT_S
        while len(received) < len(self._pipes):
            readable = wait([pipe for pipe in self._pipes if pipe not in received], end - monotonic())
            if not readable:
                raise MeasurementFailed(f"no report of a worker for {TIMEOUT_S:.0f} s")
            for pipe in cast("list[Connection]", readable):
                try:
                    received[pipe] = pipe.recv()
                except EOFError:
                    raise MeasurementFailed("a worker ended early") from None
        return [received[pipe] for pipe in self._pipes]

    def _kill(self) -> None:
        for process in self._processes:
            if process.pid is not None:
                process.kill()
        for process in self._processes:
            if process.pid is not None:
                process.join(5)
        for pipe in self._pipes:
            pipe.close()


def _run_work(work: Work, reporter: tuple[Any, ...], arguments: tuple[object, ...]) -> None:
    Thread(target=_exit_with_parent, daemon=True).start()
    work(Reporter(*reporter), *arguments)


def _exit_with_parent() -> None:
    """End this process when its parent has ended, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
